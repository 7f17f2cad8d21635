"""When something is to happen to which pin, soonest first."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from lmcache_core.api.pins import Renew
from lmcache_core.controller.pin_row import PinRow

MIN_ENDS = 1024

EXPIRED_KEPT_SECONDS = 3600.0
"""An expired pin is shown as such for so long."""

ON_HIT_GRACE_SECONDS = 15.0
"""How long the report of a hit that renewed a pin may be on its way: three heartbeats."""

GRACE_LOOK_SECONDS = 1.0
"""How often it is looked whether such a report has come."""


class Ends:
    """Times by pin; of a pin whose time has changed the old one stays until it comes."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        """Number of times kept, old ones included."""
        return len(self._heap)

    def add(self, at: float, pin_id: str) -> None:
        """Something is to happen to a pin."""
        heapq.heappush(self._heap, (at, pin_id))

    def due(self, now: float) -> Iterator[str]:
        """The pins whose time has come; each is forgotten as it is named."""
        while self._heap and self._heap[0][0] <= now:
            yield heapq.heappop(self._heap)[1]

    def is_stale(self, pins: int) -> bool:
        """Whether most of it is old times, for so many pins."""
        return len(self._heap) > 2 * pins + MIN_ENDS

    def replace(self, ends: Iterable[tuple[float, str]]) -> None:
        """Keep these times and no others."""
        self._heap = list(ends)
        heapq.heapify(self._heap)


def due_at(row: PinRow) -> float | None:
    """When something is to happen to a row: it ends, or is forgotten."""
    if row.expires_at is None:
        return None
    if row.ended:
        return row.expires_at + EXPIRED_KEPT_SECONDS
    grace = ON_HIT_GRACE_SECONDS if row.content.renew is Renew.ON_HIT else 0.0
    return row.expires_at + grace


def is_up(row: PinRow, now: float) -> bool:
    """Whether a row's time is up; of a hit that has renewed it the report may be on its way."""
    return row.expires_at is not None and row.expires_at <= now


def look_at(row: PinRow, now: float) -> float | None:
    """When a row is to be looked at next: it ends or is forgotten, or its end may have moved."""
    due = due_at(row)
    if due is None or row.ended or row.expires_at is None:
        return due
    return row.expires_at if row.expires_at > now else min(due, now + GRACE_LOOK_SECONDS)
