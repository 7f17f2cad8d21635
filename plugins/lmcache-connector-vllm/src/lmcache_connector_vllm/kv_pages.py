"""Where vLLM's KV pages lie, and what is in them."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from vllm.v1.kv_cache_interface import iter_layer_specs

from lmcache_connector_vllm.kv_groups import cached_groups
from lmcache_core.errors import LMCacheError
from lmcache_core.memory import LayerPages, PageTable

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig


def page_tables(
    kv_cache_config: KVCacheConfig, kv_caches: Mapping[str, torch.Tensor]
) -> list[PageTable]:
    """Find the pages of every layer by vLLM's placement, checked against its views.

    Groups lie over one another: a block belongs to one of them at a time.

    Page ``b`` of the ``l``-th layer of a ``KVCacheTensor`` is at the layer's
    base + ``l * layer_stride + b * block_stride``, whatever is in it. A view
    may count kernel blocks, several to a block.

    Args:
        kv_cache_config: The KV cache as vLLM laid it out.
        kv_caches: The layers' views of it, by name.

    Returns:
        A table for each group that is cached, in vLLM's order.

    Raises:
        LMCacheError: Placement and views contradict each other.
    """
    groups = cached_groups(kv_cache_config)
    number_of = {name: n for n, group in enumerate(groups) for name in group.layer_names}
    blocks = kv_cache_config.num_blocks
    layers: list[list[LayerPages]] = [[] for _ in groups]
    for tensor in kv_cache_config.kv_cache_tensors:
        for index, name in enumerate(tensor.layers):
            if name not in number_of:
                continue
            first = kv_caches[tensor.layers[0]].data_ptr()
            view = kv_caches[name]
            address = first + index * tensor.layer_stride
            stride = view.stride(0) * view.element_size() * (view.shape[0] // blocks)
            if (view.data_ptr(), stride) != (address, tensor.block_stride) or (
                view.shape[0] % blocks
            ):
                message = (
                    f"layer {name} is {tuple(view.shape)} with a block every {stride} bytes at "
                    f"{view.data_ptr():#x}; by its placement it has {blocks} blocks, one every "
                    f"{tensor.block_stride} bytes, at {address:#x}"
                )
                raise LMCacheError(message)
            spec = groups[number_of[name]].kv_cache_spec
            page_bytes = getattr(spec, "kv_cache_specs", {}).get(name, spec).page_size_bytes
            pages = LayerPages(address, tensor.block_stride, page_bytes, blocks)
            layers[number_of[name]].append(pages)
    return [PageTable(of_group) for of_group in layers]


def page_isa(vllm_config: VllmConfig, kv_cache_config: KVCacheConfig, device: torch.device) -> str:
    """What decides the order of bytes inside a page, beside the layout.

    CPU attention packs a block the way its instruction set wants it read.
    """
    if device.type != "cpu":
        return str(device.type)
    groups = cached_groups(kv_cache_config)
    specs = [layer for group in groups for layer in iter_layer_specs(group.kv_cache_spec)]
    try:
        from vllm.v1.attention.backends.cpu_attn import _get_attn_isa  # noqa: PLC0415

        isas: set[str] = {
            _get_attn_isa(
                vllm_config.model_config.dtype,
                spec.block_size,
                spec.head_size,
                vllm_config.cache_config.cache_dtype,
            )
            for spec in specs
        }
    except (ImportError, TypeError):
        # A vLLM that names it otherwise: hosts of one capability are alike.
        isas = {str(torch.backends.cpu.get_cpu_capability().lower())}
    return f"cpu-{platform.machine()}-{'+'.join(sorted(isas))}"
