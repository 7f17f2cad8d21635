"""Which pages go where when a chunk is stored or loaded.

The payload of a slot holds the KV groups one after the other, and of each
group the pages that were there when the chunk was stored, without gaps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lmcache_core.api.connector import NULL_BLOCK, SlotCopy
from lmcache_core.api.frames import HEADER_BYTES
from lmcache_core.engine.chunks.entry import Entry
from lmcache_core.engine.chunks.geometry import Geometry


def store_copies(
    geometry: Geometry,
    planned: Sequence[tuple[int, Entry]],
    tables: Sequence[Sequence[int]],
    chunk_tokens: int,
) -> list[SlotCopy]:
    """The copies that fill the slots of some chunks.

    Args:
        geometry: The engine's blocks.
        planned: Number and entry of each chunk.
        tables: The request's block tables, per group.
        chunk_tokens: Tokens in a whole chunk.
    """
    copies = []
    for number, (group, table) in enumerate(zip(geometry.groups, tables, strict=True)):
        per_chunk = chunk_tokens // group.block_tokens
        for index, entry in planned:
            first = index * per_chunk
            tokens = entry.tokens
            count = -(-tokens // group.block_tokens)
            ids = tuple(table[first : first + count])
            tail_tokens = tokens % group.block_tokens
            if entry.pages is not None:
                bits = entry.pages[number]
                if not bits >> (count - 1):
                    tail_tokens = 0
                ids = tuple(block for place, block in enumerate(ids) if bits >> place & 1)
                if not ids:
                    continue
            offset = entry.slot.offset + HEADER_BYTES
            if number:
                offset += _bytes_before(geometry, entry, number)
            copies.append(SlotCopy(offset, len(ids), 0, ids, number, tail_tokens))
    return copies


def load_copies(
    geometry: Geometry,
    entries: Sequence[Entry],
    start: int,
    stop: int,
    tables: Sequence[Sequence[int]],
) -> list[SlotCopy] | None:
    """The copies that bring tokens ``start`` to ``stop`` into the engine's blocks.

    Args:
        geometry: The engine's blocks.
        entries: Consecutive chunks from token 0 on.
        start: First token to load; a multiple of every block size.
        stop: End of the tokens to load.
        tables: The request's block tables, per group.

    Returns:
        The copies; None where a page that a window needs is not there.
    """
    copies: list[SlotCopy] = []
    for number, (group, table) in enumerate(zip(geometry.groups, tables, strict=True)):
        block_tokens = group.block_tokens
        position = 0
        for entry in entries:
            tokens = entry.tokens
            begin, end = max(start, position), min(stop, position + tokens)
            if begin < end:
                base = position // block_tokens
                low, high = begin // block_tokens, -(-end // block_tokens)
                offset = entry.slot.offset + HEADER_BYTES
                if number:
                    offset += _bytes_before(geometry, entry, number)
                if group.window is None:
                    blocks = -(-tokens // block_tokens)
                    ids = tuple(table[low:high])
                    copies.append(SlotCopy(offset, blocks, low - base, ids, number))
                else:
                    needed = max(0, stop - group.window + 1) // block_tokens
                    bits = (
                        entry.pages[number]
                        if entry.pages
                        else (1 << -(-tokens // block_tokens)) - 1
                    )
                    held = _Held(number, offset, base, bits)
                    for copy in held.copies(range(low, high), needed, table):
                        if copy is None:
                            return None
                        copies.append(copy)
            position += tokens
    return copies


class _Held(NamedTuple):
    """The pages of a windowed group that a slot holds.

    Attributes:
        group: Number of the group.
        offset: Where they start in the region.
        base: Number of the chunk's first block in the request's table.
        bits: Which of the chunk's pages they are.
    """

    group: int
    offset: int
    base: int
    bits: int

    def copies(self, blocks: range, needed: int, table: Sequence[int]) -> Iterator[SlotCopy | None]:
        """Yield the copies into some blocks of the table; None for one that is missing.

        Blocks that the engine has no room for are left out, as are those
        before ``needed`` that are not there: nothing attends to either.
        """
        run: list[int] = []
        for block in blocks:
            wanted = table[block] != NULL_BLOCK
            if wanted and self.bits >> (block - self.base) & 1:
                run.append(block)
                continue
            if wanted and block >= needed:
                yield None
            if run:
                yield self._copy(run, table)
                run = []
        if run:
            yield self._copy(run, table)

    def _copy(self, run: list[int], table: Sequence[int]) -> SlotCopy:
        before = self.bits & ((1 << (run[0] - self.base)) - 1)
        ids = tuple(table[block] for block in run)
        return SlotCopy(self.offset, self.bits.bit_count(), before.bit_count(), ids, self.group)


def _bytes_before(geometry: Geometry, entry: Entry, number: int) -> int:
    """Bytes of the groups before one in the payload of a chunk."""
    groups = geometry.groups[:number]
    if entry.pages is None:
        return sum(-(-entry.tokens // group.block_tokens) * group.block_bytes for group in groups)
    return sum(
        bits.bit_count() * group.block_bytes
        for bits, group in zip(entry.pages, groups, strict=False)
    )
