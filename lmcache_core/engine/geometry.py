"""How many bytes tokens take: blocks, payloads and slots."""

from __future__ import annotations

from typing import NamedTuple

from lmcache_core.engine.frame import HEADER_BYTES

SLOT_ALIGNMENT = 4096


class Geometry(NamedTuple):
    """The serving engine's block, as far as the cache needs to know it.

    Attributes:
        block_tokens: Tokens in one block.
        block_bytes: Bytes of one block over all layers of all ranks.
    """

    block_tokens: int
    block_bytes: int

    def blocks(self, tokens: int) -> int:
        """Blocks that hold some tokens, the last maybe partly."""
        return -(-tokens // self.block_tokens)

    def whole(self, tokens: int) -> bool:
        """Whether some tokens fill their last block.

        Only then may a chunk leave host memory: the rest of a block that is
        not full can hold bytes of another tenant, and nothing here knows
        where in a page a token's bytes lie.
        """
        return tokens % self.block_tokens == 0

    def payload_bytes(self, tokens: int) -> int:
        """Bytes of the pages of a chunk."""
        return self.blocks(tokens) * self.block_bytes

    def frame_tokens(self, nbytes: int) -> int:
        """Tokens that fill the payload of a frame of some bytes, header page and all."""
        return max(0, nbytes - HEADER_BYTES) // self.block_bytes * self.block_tokens

    def slot_bytes(self, tokens: int) -> int:
        """Bytes of a chunk's slot: header page and payload, in whole pages."""
        nbytes = HEADER_BYTES + self.payload_bytes(tokens)
        return -(-nbytes // SLOT_ALIGNMENT) * SLOT_ALIGNMENT
