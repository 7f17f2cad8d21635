"""Whole numbers of which the least and the largest are found at once."""

from __future__ import annotations

from lmcache_core.keys import PRIME, SPREAD, Parts, make_parts

FAN_BITS = 10
FAN_MASK = (1 << FAN_BITS) - 1
LEVELS = 5
"""2^50 places: a million a second for 35 years."""


class PlaceSet:
    """A set of numbers below 2^50, or what ``levels`` says, as a tree of bitmaps.

    A bitmap says which of its 1024 children are in use, so every method looks
    at five words, however many numbers there are. A heap would do as well but
    for what leaves from its middle. A word is found by a number of its own,
    which begins with a one and goes on with the digits that lead to it, so
    that all are in one table.
    """

    __slots__ = ("_top", "_words")

    def __init__(self, levels: int = LEVELS) -> None:
        self._top = 1 << levels * FAN_BITS
        self._words: Parts[int, int] = make_parts()

    def add(self, place: int) -> None:
        """Put a number in."""
        node = self._top | place
        while node > 1:
            bit = 1 << (node & FAN_MASK)
            node >>= FAN_BITS
            words = self._words[SPREAD[node % PRIME]]
            bits = words.get(node, 0)
            words[node] = bits | bit
            if bits:
                return

    def remove(self, place: int) -> None:
        """Take out a number that is in."""
        node = self._top | place
        while node > 1:
            bit = 1 << (node & FAN_MASK)
            node >>= FAN_BITS
            words = self._words[SPREAD[node % PRIME]]
            bits = words[node] ^ bit
            if bits:
                words[node] = bits
                return
            del words[node]

    def first(self) -> int:
        """The least number; there must be one."""
        node = 1
        while node < self._top:
            bits = self._words[SPREAD[node % PRIME]][node]
            node = node << FAN_BITS | (bits & -bits).bit_length() - 1
        return node ^ self._top

    def last(self) -> int:
        """The largest number; there must be one."""
        node = 1
        while node < self._top:
            bits = self._words[SPREAD[node % PRIME]][node]
            node = node << FAN_BITS | bits.bit_length() - 1
        return node ^ self._top
