"""How often chunks have been asked for or computed, for tiers that take only what returns."""

from __future__ import annotations

from collections import OrderedDict

from lmcache_core.keys import Key

MAX_SIGHTINGS = 1 << 17
"""Chunks that are remembered, whether or not they are cached: about 24 MiB."""


class Sightings:
    """A bounded count for each chunk; what was seen longest ago is forgotten first.

    Not thread-safe: the engine's lock is held around every call, all of
    which take constant time.
    """

    def __init__(self, limit: int = MAX_SIGHTINGS) -> None:
        self._limit = limit
        self._counts: OrderedDict[Key, int] = OrderedDict()

    def __len__(self) -> int:
        """Number of chunks that are remembered."""
        return len(self._counts)

    def see(self, key: Key) -> int:
        """Count one more; return how many there have been."""
        count = self._counts.pop(key, 0) + 1
        self._counts[key] = count
        if len(self._counts) > self._limit:
            self._counts.popitem(last=False)
        return count

    def count(self, key: Key) -> int:
        """How many there have been, as far as that is remembered."""
        return self._counts.get(key, 0)
