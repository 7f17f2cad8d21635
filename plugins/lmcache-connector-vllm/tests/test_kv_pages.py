"""Finding pages in vLLM's allocation, whatever the layout."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lmcache_core.errors import LMCacheError

torch = pytest.importorskip("torch")

BLOCKS, HEADS, STATES, CONTENT = 5, 2, 4, 8
PAGE_BYTES = HEADS * STATES * CONTENT * 4
NAMES = ["layer.0", "layer.1", "layer.2"]


def layers_outermost() -> tuple[Any, dict[str, Any]]:
    raw = torch.arange(len(NAMES) * BLOCKS * PAGE_BYTES // 4, dtype=torch.float32)
    cache = raw.view(len(NAMES), BLOCKS, HEADS, STATES, CONTENT)
    placement = SimpleNamespace(
        layers=NAMES, layer_stride=BLOCKS * PAGE_BYTES, block_stride=PAGE_BYTES, offset=0
    )
    return placement, {name: cache[index] for index, name in enumerate(NAMES)}


def blocks_outermost() -> tuple[Any, dict[str, Any]]:
    raw = torch.arange(len(NAMES) * BLOCKS * PAGE_BYTES // 4, dtype=torch.float32)
    cache = raw.view(BLOCKS, len(NAMES), HEADS, STATES, CONTENT)
    placement = SimpleNamespace(
        layers=NAMES, layer_stride=PAGE_BYTES, block_stride=len(NAMES) * PAGE_BYTES, offset=0
    )
    return placement, {name: cache[:, index] for index, name in enumerate(NAMES)}


def config(placement: Any) -> Any:
    spec = SimpleNamespace(page_size_bytes=PAGE_BYTES)
    return SimpleNamespace(
        num_blocks=BLOCKS,
        kv_cache_tensors=[placement],
        kv_cache_groups=[
            SimpleNamespace(kv_cache_spec=spec, layer_names=NAMES, enable_kv_transfer=True)
        ],
    )


@pytest.mark.parametrize("layout", [layers_outermost, blocks_outermost])
def test_pages_are_where_the_views_are(layout: Any) -> None:
    from lmcache_connector_vllm.kv_pages import page_tables

    placement, views = layout()
    (table,) = page_tables(config(placement), views)
    assert table.block_bytes == len(NAMES) * PAGE_BYTES
    for pages, name in zip(table.layers, NAMES, strict=True):
        for block in range(BLOCKS):
            at = pages.address + block * pages.block_stride_bytes
            assert at == views[name][block].data_ptr()


def test_blocks_split_for_the_kernel_are_counted_as_blocks() -> None:
    from lmcache_connector_vllm.kv_pages import page_tables

    placement, views = layers_outermost()
    halves = {
        name: view.view(BLOCKS * 2, HEADS, STATES // 2, CONTENT) for name, view in views.items()
    }
    (whole,) = page_tables(config(placement), views)
    (split,) = page_tables(config(placement), halves)
    assert split.layers == whole.layers


@pytest.mark.parametrize("attribute", ["layer_stride", "block_stride"])
def test_a_placement_that_the_views_contradict_is_refused(attribute: str) -> None:
    from lmcache_connector_vllm.kv_pages import page_tables

    placement, views = layers_outermost()
    setattr(placement, attribute, getattr(placement, attribute) + PAGE_BYTES)
    with pytest.raises(LMCacheError, match=r"layer\.\d"):
        page_tables(config(placement), views)
