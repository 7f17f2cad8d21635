"""The page mover of machines without the native library."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from ctypes import memmove


class PlainMover:
    """Copies page by page, with the interface of the native movers.

    Args:
        layers: See :meth:`lmcache_core.memory.PageTable.packed`.
        region_address: Where the region is mapped.
    """

    def __init__(self, layers: array[int], region_address: int) -> None:
        self._layers = list(zip(layers[0::3], layers[1::3], layers[2::3], strict=True))
        self._region_address = region_address

    def gather(self, copies: array[int]) -> None:
        """Copy pages into slots."""
        for page, in_slot, nbytes in self._moves(copies):
            memmove(in_slot, page, nbytes)

    def scatter(self, copies: array[int]) -> None:
        """Copy pages out of slots."""
        for page, in_slot, nbytes in self._moves(copies):
            memmove(page, in_slot, nbytes)

    def _moves(self, copies: array[int]) -> Iterator[tuple[int, int, int]]:
        """Yield each page's address, its address in the slot, and its length."""
        at = 0
        while at < len(copies):
            offset, slot_blocks, first_block, count = copies[at : at + 4]
            block_ids = copies[at + 4 : at + 4 + count]
            at += 4 + count
            run = self._region_address + offset
            for address, stride, nbytes in self._layers:
                in_slot = run + first_block * nbytes
                for block in block_ids:
                    yield address + block * stride, in_slot, nbytes
                    in_slot += nbytes
                run += slot_blocks * nbytes
