"""Moves pages between an engine's page table and slots of the region."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from typing import Protocol

from lmcache_core.api.connector import SlotCopy
from lmcache_core.errors import LMCacheError
from lmcache_core.memory.native import load_native
from lmcache_core.memory.pages import PageTable
from lmcache_core.memory.plain_mover import PlainMover

MAX_DEFAULT_THREADS = 4
"""Four cores saturate a socket's memory; more would take them from the model."""


class _Mover(Protocol):
    """What moves: native on the CPU, native on CUDA, or plain."""

    def gather(self, copies: array[int]) -> None: ...

    def scatter(self, copies: array[int]) -> None: ...


class PageMover:
    """Copies pages of an engine into slots and back, many in one call.

    Every copy is checked against region and page table before a byte moves.
    The native movers run without the GIL, so that a background thread may call
    them while the engine steps. On the CPU any number of threads may call at
    once; the caller keeps copies apart that write the same bytes.

    Args:
        table: The engine's pages.
        region_address: Where the region is mapped in this process.
        region_bytes: Its length.
        threads: Threads to copy large amounts with; by default as many as the
            process has cores, at most four.
        native: Whether to use the native library; by default where it is there.
        cuda_device: The device that the page table's addresses are of, or None
            where they are of host memory. Making the mover then page-locks the
            region, and its owner calls :meth:`close` before the region's.

    Raises:
        LMCacheError: The native library or its CUDA part is asked for and not
            there, or the device refuses.
    """

    def __init__(
        self,
        table: PageTable,
        region_address: int,
        region_bytes: int,
        *,
        threads: int | None = None,
        native: bool | None = None,
        cuda_device: int | None = None,
    ) -> None:
        self._table = table
        self._region_bytes = region_bytes
        if threads is None:
            threads = min(MAX_DEFAULT_THREADS, len(os.sched_getaffinity(0)))
        if threads < 1:
            raise LMCacheError(f"{threads} threads were asked for to move pages; the least is 1")
        library, status = load_native()
        self._mover: _Mover | None
        if cuda_device is not None:
            self._mover = _cuda_mover(table, region_address, region_bytes, cuda_device)
        elif library is not None and native is not False:
            self._mover = library.CpuMover(table.packed(), region_address, region_bytes, threads)
        elif native:
            raise LMCacheError(f"the native page mover is asked for and not there: {status.detail}")
        else:
            self._mover = PlainMover(table.packed(), region_address)

    def gather(self, copies: Sequence[SlotCopy]) -> int:
        """Copy pages into slots; slots must not overlap.

        Returns:
            Bytes moved.

        Raises:
            LMCacheError: A copy leaves the region or the page table; nothing
                is moved then. Or the mover is closed, or the device failed.
        """
        mover = self._open()
        packed, nbytes = self._pack(copies)
        try:
            mover.gather(packed)
        except RuntimeError as error:
            raise LMCacheError(f"gathering {nbytes} bytes of pages failed: {error}") from error
        return nbytes

    def scatter(self, copies: Sequence[SlotCopy]) -> int:
        """Copy pages out of slots; no block may be named twice.

        Returns:
            Bytes moved.

        Raises:
            LMCacheError: As for :meth:`gather`.
        """
        mover = self._open()
        packed, nbytes = self._pack(copies)
        try:
            mover.scatter(packed)
        except RuntimeError as error:
            raise LMCacheError(f"scattering {nbytes} bytes of pages failed: {error}") from error
        return nbytes

    def close(self) -> None:
        """Let go of the device and the page-locked region; idempotent."""
        self._mover = None

    def _open(self) -> _Mover:
        if self._mover is None:
            raise LMCacheError("pages are to be moved by a mover that is closed")
        return self._mover

    def _pack(self, copies: Sequence[SlotCopy]) -> tuple[array[int], int]:
        """Check the copies and pack them as the movers take them."""
        block_bytes, before_bytes = self._table.block_bytes, self._table.before_bytes
        packed = array("q")
        blocks = 0
        for copy in copies:
            block_ids = copy.block_ids
            count = len(block_ids)
            if not count:
                continue
            if not (
                copy.first_block >= 0
                and copy.offset >= 0
                and copy.first_block + count <= copy.slot_blocks
                and copy.offset + copy.slot_blocks * (before_bytes + block_bytes)
                <= self._region_bytes
                and min(block_ids) >= 0
                and max(block_ids) < self._table.blocks
            ):
                raise LMCacheError(self._out_of_bounds(copy))
            offset = copy.offset + copy.slot_blocks * before_bytes
            packed.extend((offset, copy.slot_blocks, copy.first_block, count))
            packed.extend(block_ids)
            blocks += count
        return packed, blocks * block_bytes

    def _out_of_bounds(self, copy: SlotCopy) -> str:
        start = copy.offset + copy.slot_blocks * self._table.before_bytes
        end = start + copy.slot_blocks * self._table.block_bytes
        return (
            f"a copy of {len(copy.block_ids)} blocks (from {min(copy.block_ids)} to "
            f"{max(copy.block_ids)}) at block {copy.first_block} of a slot of "
            f"{copy.slot_blocks} blocks (bytes {start} to {end}) is out of bounds: the "
            f"region has {self._region_bytes} bytes and the page table {self._table.blocks} blocks"
        )


def _cuda_mover(table: PageTable, region_address: int, region_bytes: int, device: int) -> _Mover:
    library, status = load_native()
    if library is None or not library.WITH_CUDA:
        raise LMCacheError(
            f"pages are on CUDA device {device}, and no CUDA page mover was built (native "
            f"library: {status.detail}); install nvcc 12 or newer and reinstall lmcache-core"
        )
    try:
        mover: _Mover = library.CudaMover(table.packed(), region_address, region_bytes, device)
    except RuntimeError as error:
        raise LMCacheError(f"CUDA device {device} cannot move pages: {error}") from error
    return mover
