"""When something is to happen to which pin, soonest first."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

MIN_ENDS = 1024


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
