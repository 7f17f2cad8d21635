"""Where an engine's pages lie."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import msgspec

from lmcache_core.errors import LMCacheError


class LayerPages(msgspec.Struct, frozen=True):
    """The pages of one layer: page ``b`` lies at ``address + b * block_stride_bytes``.

    Attributes:
        address: Where block 0 starts, in the memory the mover works on.
        block_stride_bytes: From one block's page to the next one's.
        page_bytes: Length of a page, contiguous.
        blocks: Number of blocks.
    """

    address: int
    block_stride_bytes: int
    page_bytes: int
    blocks: int


class PageTable:
    """The pages of all layers of one rank, in the order a slot holds them.

    The same block ids go for all layers.

    Args:
        layers: At least one.
        before_bytes: Bytes of one block's pages in the ranks that come before
            this one in a slot.

    Attributes:
        layers: The layers.
        before_bytes: See above.
        blocks: Blocks that every layer has.
        block_bytes: Bytes of one block's pages in all layers.

    Raises:
        LMCacheError: There is no layer, or one is empty or overlaps itself.
    """

    __slots__ = ("before_bytes", "block_bytes", "blocks", "layers")

    def __init__(self, layers: Sequence[LayerPages], before_bytes: int = 0) -> None:
        if not layers:
            raise LMCacheError("a page table needs at least one layer")
        if before_bytes < 0:
            raise LMCacheError(f"a rank's pages cannot begin at byte {before_bytes} of a slot")
        for index, layer in enumerate(layers):
            if min(layer.address, layer.page_bytes, layer.blocks) < 1:
                raise LMCacheError(
                    f"layer {index} has address, page size or blocks below 1: {layer}"
                )
            if layer.block_stride_bytes < layer.page_bytes:
                raise LMCacheError(f"pages of layer {index} overlap: {layer}")
        self.layers = tuple(layers)
        self.before_bytes = before_bytes
        self.blocks = min(layer.blocks for layer in layers)
        self.block_bytes = sum(layer.page_bytes for layer in layers)

    def packed(self) -> array[int]:
        """Address, block stride and page bytes, layer by layer, as the movers take them."""
        packed = array("q")
        for layer in self.layers:
            packed.extend((layer.address, layer.block_stride_bytes, layer.page_bytes))
        return packed
