"""Which bytes of the region are taken, and by what."""

from __future__ import annotations

import msgspec

from lmcache_core.errors import LMCacheError
from lmcache_core.keys import PRIME, SPREAD, Parts, make_parts
from lmcache_core.memory.runs import FreeRuns

DEFAULT_ALIGNMENT_BYTES = 4096
"""A page, so that a slot can be page-locked and written with direct I/O."""


class Slot(msgspec.Struct, frozen=True, gc=False):
    """A run of the region that belongs to whoever allocated it.

    Attributes:
        offset: Where it starts in the region, in bytes; aligned.
        nbytes: Its length in bytes, a multiple of the alignment.
    """

    offset: int
    nbytes: int


class HostPool:
    """Hands out aligned, contiguous slots of one region; touches no memory.

    Both calls take constant time however many slots there are. A slot is as
    large as was asked for, rounded up to the alignment and no further, and
    ``allocate`` fails only where no free run is long enough. Neighbours are
    joined as soon as they are free. Not thread-safe: the owner takes turns.

    Args:
        nbytes: Length of the region; a last part below the alignment is left out.
        alignment: Alignment of slots in bytes, a power of two.

    Raises:
        LMCacheError: The alignment is no power of two, or the region is
            shorter than one slot.
    """

    def __init__(self, nbytes: int, alignment: int = DEFAULT_ALIGNMENT_BYTES) -> None:
        if alignment < 1 or alignment & (alignment - 1):
            raise LMCacheError(f"the alignment of a pool is {alignment}; it must be a power of two")
        self._shift = alignment.bit_length() - 1
        self._mask = alignment - 1
        capacity = nbytes >> self._shift
        if capacity < 1:
            raise LMCacheError(
                f"a pool of {nbytes} bytes has no room for one slot of {alignment} bytes"
            )
        self._capacity = capacity
        self._free = capacity
        self._runs = FreeRuns(capacity)
        self._count = 0
        # In granules: the size of each free run by its start, less than 0 of
        # a slot, and the start of each free run by its end.
        self._sizes: Parts[int, int] = make_parts()
        self._starts: Parts[int, int] = make_parts()
        # What is behind has never been a slot, or is free again with all that was.
        self._fresh = 0

    def allocate(self, nbytes: int) -> Slot | None:
        """Take a slot of at least ``nbytes`` bytes.

        Returns:
            The slot, or None where no free run is long enough.

        Raises:
            LMCacheError: ``nbytes`` is not positive.
        """
        size = (nbytes + self._mask) >> self._shift
        if size < 1:
            raise LMCacheError(f"a slot of {nbytes} bytes was asked for; the least is 1 byte")
        run = self._runs.take(size)
        if run is not None:
            start, length = run
            end = start + length
            del self._starts[SPREAD[end % PRIME]][end]
            if length > size:
                self._note_free(start + size, length - size)
        elif size <= self._capacity - self._fresh:
            start = self._fresh
            self._fresh += size
        else:
            return None
        self._sizes[SPREAD[start % PRIME]][start] = -size
        self._free -= size
        self._count += 1
        # The number that was asked with is one for all slots of a length, where it is even.
        even = size << self._shift == nbytes
        return Slot(start << self._shift, nbytes if even else size << self._shift)

    def free(self, slot: Slot) -> None:
        """Give a slot back.

        Raises:
            LMCacheError: This pool has not handed it out, or has it back
                already; nothing is changed.
        """
        start = slot.offset >> self._shift
        size = slot.nbytes >> self._shift
        sizes = self._sizes[SPREAD[start % PRIME]]
        known = -sizes.get(start, 0)
        if known != size or size < 1 or (slot.offset | slot.nbytes) & self._mask:
            taken = Slot(slot.offset, known << self._shift) if known > 0 else "nothing"
            raise LMCacheError(
                f"{slot} is freed but not taken: it was freed before or is another pool's; "
                f"taken at that offset: {taken}"
            )
        del sizes[start]
        self._free += size
        self._count -= 1
        end = start + size
        after = self._sizes[SPREAD[end % PRIME]].get(end, 0)
        if after > 0:
            del self._sizes[SPREAD[end % PRIME]][end]
            self._runs.remove(end, after)
            end += after
        before = self._starts[SPREAD[start % PRIME]].pop(start, None)
        if before is not None:
            self._runs.remove(before, start - before)
            del self._sizes[SPREAD[before % PRIME]][before]
            start = before
        if end == self._fresh:
            self._fresh = start
        else:
            self._note_free(start, end - start)

    @property
    def _largest(self) -> int:
        return max(self._runs.largest(), self._capacity - self._fresh)

    def _note_free(self, start: int, size: int) -> None:
        self._runs.add(start, size)
        self._sizes[SPREAD[start % PRIME]][start] = size
        end = start + size
        self._starts[SPREAD[end % PRIME]][end] = start

    @property
    def capacity_bytes(self) -> int:
        """Bytes that slots can take, all together."""
        return self._capacity << self._shift

    @property
    def used_bytes(self) -> int:
        """Bytes that slots take."""
        return self._capacity - self._free << self._shift

    @property
    def free_bytes(self) -> int:
        """Bytes that no slot takes."""
        return self._free << self._shift

    @property
    def largest_free_bytes(self) -> int:
        """Size of the largest slot that can be allocated now, in bytes."""
        return self._largest << self._shift

    @property
    def fragmentation(self) -> float:
        """Share of the free bytes outside the largest free run, from 0 to 1."""
        return 1 - self._largest / self._free if self._free else 0.0

    def __len__(self) -> int:
        """Number of slots taken."""
        return self._count
