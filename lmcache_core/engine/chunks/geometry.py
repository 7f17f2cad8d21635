"""How many bytes tokens take: blocks, payloads and slots."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lmcache_core.api.connector import NULL_BLOCK, KVGroup
from lmcache_core.api.frames import HEADER_BYTES
from lmcache_core.engine.chunks.pages import Pages
from lmcache_core.errors import ConfigError

SLOT_ALIGNMENT = 4096

MAX_PAGES = 16384
"""Pages of a chunk over all groups; the header page has a bit for each, and some room."""


class Geometry:
    """The serving engine's blocks, as far as the cache needs to know them.

    Args:
        groups: The KV groups, at least one.

    Attributes:
        groups: See above.
        windowed: Whether any of them has a window, so that pages can be missing.
        block_tokens: Tokens after which the blocks of all groups end together.
        clears_tails: Whether blocks that are not full hold zeros behind their
            last token.
    """

    __slots__ = (
        "_payload_bytes",
        "_slot_bytes",
        "block_tokens",
        "clears_tails",
        "groups",
        "windowed",
    )

    def __init__(self, groups: Sequence[KVGroup]) -> None:
        self.groups = tuple(groups)
        self.windowed = any(group.window is not None for group in groups)
        self.clears_tails = all(group.clears_tails for group in groups)
        self.block_tokens = math.lcm(*(group.block_tokens for group in groups))
        # One for each length of a chunk; asked for with every slot.
        self._payload_bytes: dict[int, int] = {}
        self._slot_bytes: dict[int, int] = {}

    def blocks(self, tokens: int) -> tuple[int, ...]:
        """Blocks of each group that hold some tokens, the last maybe partly."""
        return tuple(-(-tokens // group.block_tokens) for group in self.groups)

    def may_leave(self, tokens: int) -> bool:
        """Whether a chunk of some tokens may leave host memory.

        The rest of a block that is not full can hold bytes of another tenant.
        Nothing here knows where in a page a token's bytes lie; who stores has
        cleared the others, or the chunk has to fill its blocks.
        """
        return self.clears_tails or tokens % self.block_tokens == 0

    def pages(self, start: int, tokens: int, tables: Sequence[Sequence[int]]) -> Pages:
        """Which pages of a chunk the engine has.

        Args:
            start: The chunk's first token; a multiple of every block size.
            tokens: Its length.
            tables: The block tables, per group, from token 0 on.
        """
        pages = []
        complete = True
        for group, table in zip(self.groups, tables, strict=True):
            first = start // group.block_tokens
            count = -(-tokens // group.block_tokens)
            bits = (1 << count) - 1
            if group.window is not None:
                for place, block in enumerate(table[first : first + count]):
                    if block == NULL_BLOCK:
                        bits &= ~(1 << place)
                        complete = False
            pages.append(bits)
        return None if complete else tuple(pages)

    def payload_bytes(self, tokens: int, pages: Pages = None) -> int:
        """Bytes of the pages of a chunk, by default of all of them."""
        if pages is not None:
            return sum(
                bits.bit_count() * group.block_bytes
                for bits, group in zip(pages, self.groups, strict=True)
            )
        nbytes = self._payload_bytes.get(tokens)
        if nbytes is None:
            nbytes = self._payload_bytes[tokens] = sum(
                -(-tokens // group.block_tokens) * group.block_bytes for group in self.groups
            )
        return nbytes

    def frame_tokens(self, nbytes: int) -> int:
        """Tokens of the complete chunk whose frame has some bytes, header page and all."""
        unit_bytes = self.payload_bytes(self.block_tokens)
        return max(0, nbytes - HEADER_BYTES) // unit_bytes * self.block_tokens

    def may_be_raw(self, nbytes: int) -> bool:
        """Whether some blocks have together just what a frame of some bytes has of payload."""
        unit_bytes = math.gcd(*(group.block_bytes for group in self.groups))
        return nbytes >= HEADER_BYTES and not (nbytes - HEADER_BYTES) % unit_bytes

    def frame_bytes(self, tokens: int, pages: Pages = None) -> int:
        """Bytes of a chunk's frame: header page and payload."""
        return HEADER_BYTES + self.payload_bytes(tokens, pages)

    def slot_bytes(self, tokens: int, pages: Pages = None) -> int:
        """Bytes of a chunk's slot: its frame, in whole pages of memory."""
        if pages is not None:
            return slot_size(self.frame_bytes(tokens, pages))
        nbytes = self._slot_bytes.get(tokens)
        if nbytes is None:
            nbytes = self._slot_bytes[tokens] = slot_size(self.frame_bytes(tokens))
        return nbytes


def check_chunk(geometry: Geometry, chunk_tokens: int) -> None:
    """Check that a chunk can be made of whole blocks and described by a header.

    Raises:
        ConfigError: It cannot.
    """
    if chunk_tokens % geometry.block_tokens:
        message = (
            f"a chunk of {chunk_tokens} tokens is not made of whole blocks, which end together "
            f"after {geometry.block_tokens} tokens; set chunk_size to a multiple of that"
        )
        raise ConfigError(message, key="chunk_size")
    pages = sum(geometry.blocks(chunk_tokens))
    if pages > MAX_PAGES:
        message = (
            f"a chunk of {chunk_tokens} tokens has {pages} pages in {len(geometry.groups)} KV "
            f"groups, and the most are {MAX_PAGES}; set chunk_size to less"
        )
        raise ConfigError(message, key="chunk_size")


def slot_size(frame_bytes: int) -> int:
    """Bytes of the slot of a frame: whole pages of memory."""
    return -(-frame_bytes // SLOT_ALIGNMENT) * SLOT_ALIGNMENT
