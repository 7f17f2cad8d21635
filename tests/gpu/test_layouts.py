"""Every layout of vLLM's KV cache moves whole, to and from a device and on the CPU.

The pages are a tensor, as an engine's are, and what the mover does is compared
byte for byte with plain slices of it. ``make gpu-test`` runs it on a GPU; the
same cases without one hold the test itself to account.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest

from lmcache_core.api import BackendContext, MemoryBackendSpec
from lmcache_core.api.connector import SlotCopy
from lmcache_core.memory import HostRegion, LayerPages, PageMover, PageTable
from lmcache_core.plugins import PluginRegistry

torch: Any = pytest.importorskip("torch")

BLOCKS = 24
KIB = 1024


class Layout(NamedTuple):
    """Where page ``b`` of layer ``l`` lies: ``l * layer_stride + b * block_stride``.

    Attributes:
        layers: Number of layers.
        page_bytes: Length of a page.
        layer_stride: From one layer to the next, in bytes.
        block_stride: From one block to the next, in bytes.
    """

    layers: int
    page_bytes: int
    layer_stride: int
    block_stride: int


LAYOUTS = {
    # LBNHC and LBHNC: all blocks of a layer, then the next layer.
    "layer by layer": Layout(8, 64 * KIB, BLOCKS * 64 * KIB, 64 * KIB),
    # BLHNC and BLNHC: all layers of a block, then the next block.
    "block by block": Layout(8, 64 * KIB, 64 * KIB, 8 * 64 * KIB),
    # MLA: one latent of 576 elements of two bytes a token, 64 tokens a page.
    "MLA": Layout(6, 64 * 1152, BLOCKS * 64 * 1152, 64 * 1152),
    # MLA in FP8 with its scales, 656 bytes a token; pages padded to one size.
    "MLA in FP8, padded": Layout(6, 64 * 656, BLOCKS * 45_056, 45_056),
    # An odd length, where 16 bytes at a time are not to be had.
    "odd": Layout(3, 4099, BLOCKS * 4099, 4099),
    # Mamba: one long state a block.
    "state": Layout(2, 256 * KIB, BLOCKS * 256 * KIB, 256 * KIB),
}


def devices() -> list[Any]:
    """The CPU, and the GPU where there is one or has to be."""
    there = torch.cuda.is_available()
    if os.environ.get("REQUIRE_GPU") and not there:
        pytest.exit("REQUIRE_GPU is set and torch sees no GPU", returncode=1)
    skip = pytest.mark.skipif(not there, reason="torch sees no GPU")
    return ["cpu", pytest.param("cuda", marks=skip)]


class Moving:
    """Pages on a device, a region of shared memory, the mover between them."""

    def __init__(self, layout: Layout, device: str, region: HostRegion) -> None:
        self.layout = layout
        nbytes = (layout.layers - 1) * layout.layer_stride + (BLOCKS - 1) * layout.block_stride
        random.seed(1)
        content = torch.frombuffer(
            bytearray(random.randbytes(nbytes + layout.page_bytes)), dtype=torch.uint8
        )
        self.pages = content.to(device)
        table = PageTable(
            [
                LayerPages(
                    self.pages.data_ptr() + layer * layout.layer_stride,
                    layout.block_stride,
                    layout.page_bytes,
                    BLOCKS,
                )
                for layer in range(layout.layers)
            ]
        )
        self.region = region
        on_gpu = {"cuda_device": 0} if device == "cuda" else {}
        self.mover = PageMover(table, region.address, region.nbytes, **on_gpu)

    def page(self, layer: int, block: int) -> slice:
        start = layer * self.layout.layer_stride + block * self.layout.block_stride
        return slice(start, start + self.layout.page_bytes)

    def places(self, copy: SlotCopy) -> Iterator[tuple[slice, slice]]:
        """Each page's bytes in the region and in the pages."""
        size = self.layout.page_bytes
        for layer in range(self.layout.layers):
            for index, block in enumerate(copy.block_ids, copy.first_block):
                start = copy.offset + (layer * copy.slot_blocks + index) * size
                yield slice(start, start + size), self.page(layer, block)


def copies_of(layout: Layout, blocks: Sequence[int]) -> list[SlotCopy]:
    """Two slots, the second one not from its start and not to its end."""
    half = len(blocks) // 2
    slot_bytes = (half + 3) * layout.layers * layout.page_bytes
    return [
        SlotCopy(4096, half, 0, tuple(blocks[:half])),
        SlotCopy(4096 + slot_bytes, half + 3, 2, tuple(blocks[half : 2 * half])),
    ]


@pytest.fixture
def region() -> Iterator[HostRegion]:
    spec = PluginRegistry.discover().backend("LocalCPUBackend")
    assert isinstance(spec, MemoryBackendSpec)
    context = BackendContext(instance_id="gpu-test", tier="LocalCPUBackend")
    with HostRegion.create(spec, {}, context, 12 << 20) as made:
        yield made


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("layout", list(LAYOUTS.values()), ids=list(LAYOUTS))
def test_every_byte_is_where_it_belongs(layout: Layout, device: str, region: HostRegion) -> None:
    moving = Moving(layout, device, region)
    blocks = random.Random(2).sample(range(BLOCKS), 12)
    copies = copies_of(layout, blocks)
    whole = region.view(0, region.nbytes)
    whole[:] = b"\xa5" * region.nbytes
    try:
        pages = bytes(moving.pages.cpu().numpy().tobytes())
        expected = bytearray(whole)
        for copy in copies:
            for place, page in moving.places(copy):
                expected[place] = pages[page]
        moved = moving.mover.gather(copies)
        assert moved == 12 * layout.layers * layout.page_bytes
        assert whole == expected
        assert moving.pages.cpu().numpy().tobytes() == pages, "reading has written"

        content = random.Random(3).randbytes(region.nbytes)
        whole[:] = content
        after = bytearray(pages)
        for copy in copies:
            for place, page in moving.places(copy):
                after[page] = content[place]
        assert moving.mover.scatter(copies) == moved
        assert moving.pages.cpu().numpy().tobytes() == bytes(after)
        assert whole == content, "writing has read too much"
    finally:
        whole.release()
        moving.mover.close()


@pytest.mark.parametrize("device", devices())
def test_two_movers_share_one_region_in_turn(device: str, region: HostRegion) -> None:
    layout = LAYOUTS["layer by layer"]
    copies = copies_of(layout, list(range(12)))
    for _ in range(2):
        moving = Moving(layout, device, region)
        moving.mover.gather(copies)
        moving.mover.close()
