"""Which pages go where when a chunk is stored or loaded.

The payload of a slot holds the KV groups one after the other, and of each
group the pages that were there when the chunk was stored, without gaps.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmcache_core.api.connector import NULL_BLOCK, KVGroup, SlotCopy
from lmcache_core.engine.entry import Entry
from lmcache_core.engine.geometry import HEADER_BYTES, Geometry
from lmcache_core.engine.pages import Pages


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
            count = -(-entry.tokens // group.block_tokens)
            ids = tuple(table[first : first + count])
            if entry.pages is not None:
                bits = entry.pages[number]
                ids = tuple(block for place, block in enumerate(ids) if bits >> place & 1)
                if not ids:
                    continue
            offset = entry.slot.offset + HEADER_BYTES
            if number:
                offset += _bytes_before(geometry, entry, number)
            copies.append(SlotCopy(offset, len(ids), 0, ids, number))
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
                    part = _Part(number, group, entry.pages, tokens, base, offset)
                    if not part.load(copies, low, high, needed, table):
                        return None
            position += tokens
    return copies


class _Part:
    """A windowed group's pages of one chunk."""

    def __init__(
        self, number: int, group: KVGroup, pages: Pages, tokens: int, base: int, offset: int
    ) -> None:
        self._number = number
        self._offset = offset
        self._base = base
        count = -(-tokens // group.block_tokens)
        self._bits = (1 << count) - 1 if pages is None else pages[number]

    def load(
        self, copies: list[SlotCopy], low: int, high: int, needed: int, table: Sequence[int]
    ) -> bool:
        """Add the copies of blocks ``low`` to ``high``; False where one is missing.

        Blocks that the engine has no room for are left out, as are those
        before ``needed`` that are not there: nothing attends to either.
        """
        run: list[int] = []
        slot_blocks = self._bits.bit_count()
        for block in (*range(low, high), -1):
            wanted = block >= 0 and table[block] != NULL_BLOCK
            there = block >= 0 and self._bits >> (block - self._base) & 1
            if wanted and there:
                run.append(block)
                continue
            if wanted and block >= needed:
                return False
            if run:
                before = self._bits & ((1 << (run[0] - self._base)) - 1)
                ids = tuple(table[block] for block in run)
                first = before.bit_count()
                copies.append(SlotCopy(self._offset, slot_blocks, first, ids, self._number))
                run = []
        return True


def _bytes_before(geometry: Geometry, entry: Entry, number: int) -> int:
    """Bytes of the groups before one in the payload of a chunk."""
    groups = geometry.groups[:number]
    if entry.pages is None:
        return sum(-(-entry.tokens // group.block_tokens) * group.block_bytes for group in groups)
    return sum(
        bits.bit_count() * group.block_bytes
        for bits, group in zip(entry.pages, groups, strict=False)
    )
