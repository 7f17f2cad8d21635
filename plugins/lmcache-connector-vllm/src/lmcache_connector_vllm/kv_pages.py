"""Where vLLM's KV pages lie, and what is in them."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from lmcache_core.errors import LMCacheError
from lmcache_core.memory import LayerPages, PageTable

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig


def page_table(kv_cache_config: KVCacheConfig, kv_caches: Mapping[str, torch.Tensor]) -> PageTable:
    """Find the pages of every layer by vLLM's placement, checked against its views.

    Page ``b`` of the ``l``-th layer of a ``KVCacheTensor`` is at the layer's
    base + ``l * layer_stride + b * block_stride``, whatever is in it. A view
    may count kernel blocks, several to a block.

    Args:
        kv_cache_config: The KV cache as vLLM laid it out.
        kv_caches: The layers' views of it, by name.

    Raises:
        LMCacheError: Placement and views contradict each other.
    """
    spec = kv_cache_config.kv_cache_groups[0].kv_cache_spec
    specs = getattr(spec, "kv_cache_specs", {})
    blocks = kv_cache_config.num_blocks
    layers = []
    for tensor in kv_cache_config.kv_cache_tensors:
        first = kv_caches[tensor.layers[0]].data_ptr()
        for index, name in enumerate(tensor.layers):
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
            page_bytes = specs.get(name, spec).page_size_bytes
            layers.append(LayerPages(address, tensor.block_stride, page_bytes, blocks))
    return PageTable(layers)


def page_isa(vllm_config: VllmConfig, kv_cache_config: KVCacheConfig, device: torch.device) -> str:
    """What decides the order of bytes inside a page, beside the layout.

    CPU attention packs a block the way its instruction set wants it read.
    """
    if device.type != "cpu":
        return str(device.type)
    spec = kv_cache_config.kv_cache_groups[0].kv_cache_spec
    spec = getattr(spec, "first_spec", spec)
    try:
        from vllm.v1.attention.backends.cpu_attn import _get_attn_isa  # noqa: PLC0415

        isa: str = _get_attn_isa(
            vllm_config.model_config.dtype,
            spec.block_size,
            spec.head_size,
            vllm_config.cache_config.cache_dtype,
        )
    except (ImportError, TypeError):
        # A vLLM that names it otherwise: hosts of one capability are alike.
        isa = str(torch.backends.cpu.get_cpu_capability().lower())
    return f"cpu-{platform.machine()}-{isa}"
