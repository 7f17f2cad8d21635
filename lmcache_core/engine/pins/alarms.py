"""When the time of each pin is to be looked at."""

from __future__ import annotations

from sortedcontainers import SortedList

from lmcache_core.engine.pins.pin import Pin


class Alarms:
    """One for each pin that ends, however often it is renewed.

    A pin whose end moves further away keeps its alarm: moving it costs a
    third of what a renewal does, and a look too early costs nothing.
    """

    def __init__(self) -> None:
        self._alarms: SortedList[tuple[float, str]] = SortedList()

    def __len__(self) -> int:
        """Number of pins that have one."""
        return len(self._alarms)

    def first(self, now: float) -> str | None:
        """The pin whose alarm is due before all others', or None where none is."""
        if not self._alarms or self._alarms[0][0] > now:
            return None
        return self._alarms[0][1]

    def set(self, pin: Pin) -> None:
        """Make sure that a pin is looked at no later than at its end."""
        if pin.alarm is None or (pin.due is not None and pin.due < pin.alarm):
            self._move(pin, pin.due)

    def set_anew(self, pin: Pin) -> None:
        """Let a pin be looked at when it ends and not before."""
        if pin.alarm != pin.due:
            self._move(pin, pin.due)

    def drop(self, pin: Pin) -> None:
        """A pin is no more."""
        self._move(pin, None)

    def _move(self, pin: Pin, at: float | None) -> None:
        if pin.alarm is not None:
            self._alarms.remove((pin.alarm, pin.request.pin_id))
        pin.alarm = at
        if at is not None:
            self._alarms.add((at, pin.request.pin_id))
