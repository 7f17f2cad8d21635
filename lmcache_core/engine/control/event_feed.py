"""What comes into the tiers and goes from them, as numbered messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lmcache_core.api.messages import Events
from lmcache_core.engine.chunks.events import Event
from lmcache_core.engine.tiers.stack import TierStack

EVENTS_AT_ONCE = 512
KEYS_AT_ONCE = 2048
"""Of a snapshot. While a message is made the serving thread runs no Python, so each
takes a fraction of a millisecond, and who sends them waits between two."""


class EventFeed:
    """Sends a snapshot where one is due, and then what has changed, part by part.

    A message's number is spent also when the link drops it: the gap is how
    the controller learns that it has missed something.

    Args:
        tiers: The engine's tiers.
        send: Hands a message to the link; False when it is dropped.
        instance_id: The engine's id.
        incarnation: Its start time.

    Attributes:
        sequence: Number of the last message.
    """

    def __init__(
        self,
        tiers: TierStack,
        send: Callable[[Events], object],
        instance_id: str,
        incarnation: int,
    ) -> None:
        self.sequence = 0
        self._tiers = tiers
        self._send = send
        self._instance_id = instance_id
        self._incarnation = incarnation
        self._snapshot: Iterator[Events] | None = None

    def begin_snapshot(self) -> None:
        """Send all keys anew; what happens meanwhile is sent behind them."""
        events = self._tiers.events
        # The snapshot says it all. A quarter of a million let go at once take 16 ms.
        for _ in range(0, len(events), EVENTS_AT_ONCE):
            with self._tiers.lock:
                events.take(EVENTS_AT_ONCE)
        with self._tiers.lock:
            events.lost = False
        self._snapshot = self._snapshot_parts()

    def cut(self) -> None:
        """Leave a snapshot that is under way; whoever wants one will ask again."""
        self._snapshot = None

    def send_some(self) -> bool:
        """Send the next part; whether there may be more."""
        if self._tiers.events.lost:
            self.begin_snapshot()
        if self._snapshot is None:
            return self._send_events()
        part = next(self._snapshot, None)
        if part is None:
            self._snapshot = None
        else:
            self._send(part)
        return True

    def _snapshot_parts(self) -> Iterator[Events]:
        locations = self._tiers.locations
        for location in locations:
            part = b""
            for following in self._tiers.packed_keys(location, KEYS_AT_ONCE):
                if part:
                    yield self._numbered(location, admitted=part, snapshot=True)
                part = following
            last = location == locations[-1]
            yield self._numbered(location, admitted=part, snapshot=True, last=last)

    def _send_events(self) -> bool:
        with self._tiers.lock:
            events = self._tiers.events.take(EVENTS_AT_ONCE)
        for location in dict.fromkeys(event.location for event in events):
            self._send_batch(location, [e for e in events if e.location == location])
        return len(events) == EVENTS_AT_ONCE

    def _send_batch(self, location: str, events: list[Event]) -> None:
        # A batch is applied as a whole, admissions first; a key that went and
        # came back within it has to end as its last event says.
        last = {event.key: event.admitted for event in events}
        self._send(
            self._numbered(
                location,
                admitted=b"".join(key for key, admitted in last.items() if admitted),
                evicted=b"".join(key for key, admitted in last.items() if not admitted),
            )
        )

    def _numbered(
        self,
        location: str,
        *,
        admitted: bytes,
        evicted: bytes = b"",
        snapshot: bool = False,
        last: bool = False,
    ) -> Events:
        self.sequence += 1
        return Events(
            instance_id=self._instance_id,
            incarnation=self._incarnation,
            sequence=self.sequence,
            location=location,
            admitted=admitted,
            evicted=evicted,
            snapshot=snapshot,
            last=last,
        )
