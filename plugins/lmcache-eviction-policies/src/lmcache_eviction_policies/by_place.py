"""Keys at numbered places, of which the first and the last are found at once."""

from __future__ import annotations

from lmcache_core.keys import PRIME, SPREAD, Key, Parts, make_parts
from lmcache_eviction_policies.places import LEVELS, PlaceSet


class KeysByPlace:
    """Keys by their places, in which they may be put and taken in any order.

    Args:
        levels: See :class:`PlaceSet`.
    """

    __slots__ = ("_count", "_keys", "_places")

    def __init__(self, levels: int = LEVELS) -> None:
        self._count = 0
        self._keys: Parts[int, Key] = make_parts()
        self._places = PlaceSet(levels)

    def __len__(self) -> int:
        """Number of keys."""
        return self._count

    def __contains__(self, place: int) -> bool:
        """Whether a key is at a place."""
        return place in self._keys[SPREAD[place % PRIME]]

    def put(self, place: int, key: Key) -> None:
        """Put a key at a place where none is."""
        self._keys[SPREAD[place % PRIME]][place] = key
        self._places.add(place)
        self._count += 1

    def take(self, place: int) -> None:
        """Take away the key of a place."""
        del self._keys[SPREAD[place % PRIME]][place]
        self._places.remove(place)
        self._count -= 1

    def key(self, place: int) -> Key:
        """The key at a place where one is."""
        return self._keys[SPREAD[place % PRIME]][place]

    def first(self) -> int:
        """The least place that has a key; there must be one."""
        return self._places.first()

    def last(self) -> int:
        """The largest place that has a key; there must be one."""
        return self._places.last()
