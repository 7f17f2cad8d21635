"""Free runs of a region, found by size in constant time."""

from __future__ import annotations

from lmcache_core.keys import PRIME, SPREAD, Parts, make_parts

_NONE = -1
_DIGIT_BITS = 10
_DIGIT_MASK = (1 << _DIGIT_BITS) - 1


class FreeRuns:
    """Free runs by their exact size, in granules.

    A segregated fit with one bin for each size that occurs. Which bins are in
    use is a tree of bitmaps held in integers, 1024 bins a bit of the level
    above, so that the smallest sufficient size is found in three steps however
    many runs there are. Classic TLSF rounds sizes into classes and then misses
    a run of precisely the size asked for; a cache frees and asks for one size
    all day, and would evict twice for each slot. Runs of one size are linked
    by their starts, the one freed last first.

    Args:
        capacity: Size of the largest run there can be, in granules.
    """

    __slots__ = ("_beside", "_low", "_middle", "_newest", "_top")

    def __init__(self, capacity: int) -> None:
        self._newest: dict[int, int] = {}
        # By the start of a run, those of the next newer and the next older one of its size.
        self._beside: Parts[int, list[int]] = make_parts()
        self._low = [0] * ((capacity >> _DIGIT_BITS) + 1)
        self._middle = [0] * ((capacity >> 2 * _DIGIT_BITS) + 1)
        self._top = 0

    def add(self, start: int, size: int) -> None:
        """Note a free run."""
        older = self._newest.get(size, _NONE)
        self._newest[size] = start
        self._beside[SPREAD[start % PRIME]][start] = [_NONE, older]
        if older != _NONE:
            self._beside[SPREAD[older % PRIME]][older][0] = start
            return
        low = size >> _DIGIT_BITS
        bits = self._low[low]
        self._low[low] = bits | 1 << (size & _DIGIT_MASK)
        if bits:
            return
        middle = low >> _DIGIT_BITS
        bits = self._middle[middle]
        self._middle[middle] = bits | 1 << (low & _DIGIT_MASK)
        if not bits:
            self._top |= 1 << middle

    def remove(self, start: int, size: int) -> None:
        """Forget a free run that was added."""
        newer, older = self._beside[SPREAD[start % PRIME]].pop(start)
        if older != _NONE:
            self._beside[SPREAD[older % PRIME]][older][0] = newer
        if newer != _NONE:
            self._beside[SPREAD[newer % PRIME]][newer][1] = older
        elif older != _NONE:
            self._newest[size] = older
        else:
            self._drop_bin(size)

    def take(self, size: int) -> tuple[int, int] | None:
        """Remove the smallest run of at least ``size`` granules.

        Of several the one freed last: its pages are committed already.

        Returns:
            Its start and its size, or None where no run is large enough.
        """
        start = self._newest.get(size)
        if start is None:
            found = self._at_least(size)
            if found is None:
                return None
            size = found
            start = self._newest[size]
        _, older = self._beside[SPREAD[start % PRIME]].pop(start)
        if older == _NONE:
            self._drop_bin(size)
        else:
            self._beside[SPREAD[older % PRIME]][older][0] = _NONE
            self._newest[size] = older
        return start, size

    def largest(self) -> int:
        """Size of the largest run; 0 where there is none."""
        if not self._top:
            return 0
        middle = self._top.bit_length() - 1
        low = (middle << _DIGIT_BITS) + self._middle[middle].bit_length() - 1
        return (low << _DIGIT_BITS) + self._low[low].bit_length() - 1

    def _drop_bin(self, size: int) -> None:
        del self._newest[size]
        low = size >> _DIGIT_BITS
        bits = self._low[low] ^ 1 << (size & _DIGIT_MASK)
        self._low[low] = bits
        if bits:
            return
        middle = low >> _DIGIT_BITS
        bits = self._middle[middle] ^ 1 << (low & _DIGIT_MASK)
        self._middle[middle] = bits
        if not bits:
            self._top ^= 1 << middle

    def _at_least(self, size: int) -> int | None:
        if not self._top:
            return None
        low = size >> _DIGIT_BITS
        if low >= len(self._low):
            return None
        bits = self._low[low] >> (size & _DIGIT_MASK)
        if bits:
            return size + _lowest(bits)
        middle = low >> _DIGIT_BITS
        bits = self._middle[middle] >> (low & _DIGIT_MASK) >> 1
        if bits:
            low += 1 + _lowest(bits)
        else:
            bits = self._top >> middle >> 1
            if not bits:
                return None
            middle += 1 + _lowest(bits)
            low = (middle << _DIGIT_BITS) + _lowest(self._middle[middle])
        return (low << _DIGIT_BITS) + _lowest(self._low[low])


def _lowest(bits: int) -> int:
    """Position of the lowest bit that is set."""
    return (bits & -bits).bit_length() - 1
