"""How often chunks have been seen, within a bound."""

from __future__ import annotations

from collections import OrderedDict

from lmcache_core.keys import Key

PARTS = 256
"""Keys are digests, so that their first byte makes parts of one size."""


class Sightings:
    """A bounded count for each chunk; what was seen longest ago is forgotten first.

    That holds within each of 256 parts, which are forgotten in by themselves:
    one dictionary of all takes 8 ms to grow. So a chunk may be forgotten a
    little before or after its turn among all.

    Not thread-safe: the engine's lock is held around every call, all of
    which take constant time.

    Args:
        limit: Chunks that are remembered, 256 at least: some 180 bytes each.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit // PARTS
        self._counts: tuple[OrderedDict[Key, int], ...] = tuple(OrderedDict() for _ in range(PARTS))

    def __len__(self) -> int:
        """Number of chunks that are remembered."""
        return sum(map(len, self._counts))

    def see(self, key: Key) -> int:
        """Count one more; return how many there have been."""
        counts = self._counts[key[0]]
        count = counts.pop(key, 0) + 1
        counts[key] = count
        if len(counts) > self._limit:
            counts.popitem(last=False)
        return count

    def count(self, key: Key) -> int:
        """How many there have been, as far as that is remembered."""
        return self._counts[key[0]].get(key, 0)
