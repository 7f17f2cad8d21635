"""Keys that stand in line, some of which are kept from being called."""

from __future__ import annotations

from collections import OrderedDict

from lmcache_core.keys import Key, Parts, make_parts
from lmcache_eviction_policies.by_place import KeysByPlace

STRETCH_BITS = 10


class Line:
    """Keys in the order in which they were appended.

    A held key is out of the line and gets its place back when it is released.
    Those that were never held, nearly all, are in stretches of 1024 places,
    each in the order of its places; those that came back are found by theirs.

    One list of all keys would do, but it is copied whole when it grows, while
    a step of the server waits. A stretch that has lost half of its keys, and
    half of those again, is copied, as it would go on taking the room that it
    has had; a dictionary of few keys finds its first one soon.
    """

    __slots__ = ("_listed", "_next_place", "_places", "_returned", "_stretches")

    def __init__(self) -> None:
        self._next_place = 0
        self._listed = 0
        self._places: Parts[Key, int] = make_parts()
        # An ``OrderedDict`` finds its first key at once; a ``dict`` passes
        # over all that were there before.
        self._stretches: OrderedDict[int, dict[int, Key]] = OrderedDict()
        self._returned: KeysByPlace | None = None

    def __len__(self) -> int:
        """Number of keys in line, without those held."""
        return self._listed + (0 if self._returned is None else len(self._returned))

    def __contains__(self, key: Key) -> bool:
        """Whether a key is here, held or not."""
        return key in self._places[key[0]]

    def append(self, key: Key) -> None:
        """Put a key that is not here at the end."""
        self._places[key[0]][key] = self._list(key)

    def renew(self, key: Key) -> None:
        """Put a key that is here at the end; a held one stays held."""
        places = self._places[key[0]]
        if self._leave(places[key]):
            places[key] = self._list(key)
        else:
            places[key] = self._next_place
            self._next_place += 1

    def discard(self, key: Key) -> None:
        """Take out a key, where it is here."""
        place = self._places[key[0]].pop(key, None)
        if place is not None:
            self._leave(place)

    def hold(self, key: Key) -> None:
        """Keep the place of a key that is in line."""
        self._leave(self._places[key[0]][key])

    def release(self, key: Key) -> None:
        """Put a held key back in its place."""
        if self._returned is None:
            self._returned = KeysByPlace()
        self._returned.put(self._places[key[0]][key], key)

    def first(self) -> Key | None:
        """The key that stands first, or None."""
        stretch: dict[int, Key] = next(iter(self._stretches.values()), {})
        place = next(iter(stretch), None)
        if self._returned:
            returned = self._returned.first()
            if place is None or returned < place:
                return self._returned.key(returned)
        return None if place is None else stretch[place]

    def last(self) -> Key | None:
        """The key that stands last, or None."""
        stretch: dict[int, Key] = next(reversed(self._stretches.values()), {})
        place = next(reversed(stretch), None)
        if self._returned:
            returned = self._returned.last()
            if place is None or returned > place:
                return self._returned.key(returned)
        return None if place is None else stretch[place]

    def _list(self, key: Key) -> int:
        """Put a key at the end; return its place."""
        place = self._next_place
        self._next_place = place + 1
        number = place >> STRETCH_BITS
        stretch = self._stretches.get(number)
        if stretch is None:
            stretch = self._stretches[number] = {}
        stretch[place] = key
        self._listed += 1
        return place

    def _leave(self, place: int) -> bool:
        """Empty a place; whether its key was in line and not held."""
        number = place >> STRETCH_BITS
        stretch = self._stretches.get(number)
        if stretch is None or stretch.pop(place, None) is None:
            if self._returned is None or place not in self._returned:
                return False
            self._returned.take(place)
            return True
        self._listed -= 1
        left = len(stretch)
        if not left:
            del self._stretches[number]
        elif not left & (left - 1) and number < self._next_place >> STRETCH_BITS:
            self._stretches[number] = dict(stretch)
        return True
