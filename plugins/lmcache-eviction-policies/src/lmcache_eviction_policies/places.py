"""Whole numbers of which the least and the largest are found at once."""

from __future__ import annotations

FAN_BITS = 10
FAN_MASK = (1 << FAN_BITS) - 1
LEVELS = 5
"""2^50 places: a million a second for 35 years."""


class PlaceSet:
    """A set of numbers below 2^50, as a tree of bitmaps.

    A bitmap says which of its 1024 children are in use, so every method looks
    at five words, however many numbers there are. A heap would do as well but
    for what leaves from its middle.
    """

    __slots__ = ("_levels",)

    def __init__(self) -> None:
        self._levels: tuple[dict[int, int], ...] = tuple({} for _ in range(LEVELS))

    def __bool__(self) -> bool:
        """Whether there is any number."""
        return bool(self._levels[0])

    def add(self, place: int) -> None:
        """Put a number in."""
        for level in self._levels:
            word = place >> FAN_BITS
            bits = level.get(word, 0)
            level[word] = bits | 1 << (place & FAN_MASK)
            if bits:
                return
            place = word

    def remove(self, place: int) -> None:
        """Take out a number that is in."""
        for level in self._levels:
            word = place >> FAN_BITS
            bits = level[word] & ~(1 << (place & FAN_MASK))
            if bits:
                level[word] = bits
                return
            del level[word]
            place = word

    def first(self) -> int:
        """The least number; there must be one."""
        place = 0
        for level in reversed(self._levels):
            bits = level[place]
            place = place << FAN_BITS | (bits & -bits).bit_length() - 1
        return place

    def last(self) -> int:
        """The largest number; there must be one."""
        place = 0
        for level in reversed(self._levels):
            place = place << FAN_BITS | level[place].bit_length() - 1
        return place
