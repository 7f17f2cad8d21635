"""What has been admitted and evicted since it was last told."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from lmcache_core.keys import Key

MAX_EVENTS = 1 << 18
"""Events kept while nobody takes them: 32 MiB at most, then a snapshot is due."""


class Event(NamedTuple):
    """One admission or eviction.

    Attributes:
        location: The tier's name.
        admitted: True for an admission.
        key: The chunk.
    """

    location: str
    admitted: bool
    key: Key


class EventLog:
    """A bounded queue of events; what does not fit is lost and said to be.

    Not thread-safe: the engine's lock is held around every call.

    Attributes:
        lost: Whether any was lost, so that a snapshot is due.
    """

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._enabled = False
        self.lost = False

    def __len__(self) -> int:
        """Number of events that are kept."""
        return len(self._events)

    def enable(self) -> None:
        """Start keeping events; before, nobody would ever take them."""
        self._enabled = True

    def note(self, location: str, key: Key, *, admitted: bool) -> None:
        """Keep an event."""
        if not self._enabled:
            return
        if len(self._events) == MAX_EVENTS:
            self.lost = True
        self._events.append(Event(location, admitted, key))

    def take(self, limit: int) -> list[Event]:
        """Remove and return the oldest events, ``limit`` at most."""
        events = self._events
        return [events.popleft() for _ in range(min(limit, len(events)))]
