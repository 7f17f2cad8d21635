"""Signals that ask to stop, and the moments in which they have to wait."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asks to stop; no ``except Exception`` may swallow it.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Interrupts:
    """Turns signals into :class:`Interrupted`, but not while a process is being started.

    A process that was forked and is not yet known to anybody would outlive us.
    Blocking the signals instead would leave them blocked in the process, too.
    """

    def __init__(self) -> None:
        self._held = False
        self._pending: int | None = None

    def install(self) -> None:
        """Handle the signals from now on."""
        for number in _SIGNALS:
            signal.signal(number, self._handle)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let signals wait until the block is done."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            if self._pending is not None:
                raise Interrupted(self._pending)

    def ignore(self) -> None:
        """Ignore them: a second Ctrl-C must not leave half of the processes behind."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if not self._held:
            raise Interrupted(number)
        self._pending = number
