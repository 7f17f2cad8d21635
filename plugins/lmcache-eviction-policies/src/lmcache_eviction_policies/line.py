"""Keys that stand in line, some of which are kept from being called."""

from __future__ import annotations

from collections import OrderedDict

from lmcache_core.keys import Key, Parts, make_parts
from lmcache_eviction_policies.by_place import KeysByPlace

STRETCH_BITS = 10
STRETCH_MASK = (1 << STRETCH_BITS) - 1


class Line:
    """Keys in the order in which they were appended.

    A held key is out of the line and gets its place back when it is released.
    Those that were never held, nearly all, are in stretches of 1024 places,
    each in the order of its places; those that came back are found by theirs.

    One list of all keys would do, but it is copied whole when it grows, while
    a step of the server waits. A stretch is copied when it is full, and when
    it has lost half of its keys, and half of those again: else it would go on
    taking the room that it has had, and be slow to find its first key.
    """

    __slots__ = ("_last", "_listed", "_next_place", "_places", "_returned", "_stretches")

    def __init__(self) -> None:
        self._next_place = 0
        self._listed = 0
        self._places: Parts[Key, int] = make_parts()
        # An ``OrderedDict`` finds its first key at once; a ``dict`` passes
        # over all that were there before.
        self._stretches: OrderedDict[int, dict[int, Key]] = OrderedDict()
        self._last: dict[int, Key] = {}
        self._returned: KeysByPlace | None = None

    def __len__(self) -> int:
        """Number of keys in line, without those held."""
        return self._listed + (0 if self._returned is None else len(self._returned))

    def __contains__(self, key: Key) -> bool:
        """Whether a key is here, held or not."""
        return key in self._places[key[0]]

    def append(self, key: Key) -> None:
        """Put a key that is not here at the end."""
        self._places[key[0]][key] = place = self._next_place
        if not place & STRETCH_MASK:
            self._begin_stretch()
        self._last[place] = key
        self._listed += 1
        self._next_place = place + 1

    def renew(self, key: Key) -> None:
        """Put a key at the end, where it is here; a held one stays held."""
        places = self._places[key[0]]
        before = places.get(key)
        if before is None:
            return
        places[key] = place = self._next_place
        if not place & STRETCH_MASK:
            self._begin_stretch()
        self._next_place = place + 1
        # As _leave, for who was listed; each use of a chunk comes here.
        last = self._last
        stretch = self._stretches.get(before >> STRETCH_BITS, last)
        if stretch.pop(before, None) is not None:
            last[place] = key
            if stretch is not last and not len(stretch) & (len(stretch) - 1):
                self._shorten(before >> STRETCH_BITS, stretch)
        elif self._leave(before):
            last[place] = key
            self._listed += 1

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
        stretch = self._last
        for stretch in self._stretches.values():  # noqa: B007 - the first one
            break
        place = next(iter(stretch), None)
        if self._returned:
            returned = self._returned.first()
            if place is None or returned < place:
                return self._returned.key(returned)
        return None if place is None else stretch[place]

    def last(self) -> Key | None:
        """The key that stands last, or None."""
        stretch = self._last or next(reversed(self._stretches.values()), self._last)
        place = next(reversed(stretch), None)
        if self._returned:
            returned = self._returned.last()
            if place is None or returned > place:
                return self._returned.key(returned)
        return None if place is None else stretch[place]

    def _begin_stretch(self) -> None:
        """Let the next place be the first of another stretch."""
        if self._last:
            self._stretches[(self._next_place - 1) >> STRETCH_BITS] = dict(self._last)
        self._last = {}

    def _leave(self, place: int) -> bool:
        """Empty a place; whether its key was in line and not held."""
        stretch = self._stretches.get(place >> STRETCH_BITS, self._last)
        if stretch.pop(place, None) is not None:
            self._listed -= 1
            if stretch is not self._last and not len(stretch) & (len(stretch) - 1):
                self._shorten(place >> STRETCH_BITS, stretch)
            return True
        if self._returned is None or place not in self._returned:
            return False
        self._returned.take(place)
        return True

    def _shorten(self, number: int, stretch: dict[int, Key]) -> None:
        """Copy a stretch that has become half as long, or let it go."""
        if stretch:
            self._stretches[number] = dict(stretch)
        else:
            del self._stretches[number]
