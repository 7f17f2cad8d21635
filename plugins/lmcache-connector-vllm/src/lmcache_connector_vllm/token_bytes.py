"""Where in a page the bytes of each token lie.

A page is taken as bytes, and how an attention backend lays tokens out in it is
its own affair: on CPUs alone it differs by instruction set, element type and
head size. So the backend is asked: it writes tokens into a scratch page, and
what has changed is theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from vllm.model_executor.layers.attention import Attention
from vllm.v1.kv_cache_interface import FullAttentionSpec, SlidingWindowSpec

from lmcache_connector_vllm.kv_groups import cached_groups
from lmcache_core.log import get_logger

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheSpec

log = get_logger(__name__)

FILLS = (0x00, 0xFF)
"""What the scratch page is filled with before: a byte that is written with what
was there already does not change, and no byte is equal to both."""


class PagePart(NamedTuple):
    """The pages of one layer in a slot.

    Attributes:
        page_bytes: Length of a page.
        owner: By byte of a page, the token that it belongs to; a byte of no
            token belongs to one past the last.
    """

    page_bytes: int
    owner: torch.Tensor


def token_bytes(
    vllm_config: VllmConfig,
    kv_cache_config: KVCacheConfig,
    kv_caches: Mapping[str, torch.Tensor],
) -> list[list[PagePart] | None]:
    """Find the bytes of each token in the pages of every layer.

    Returns:
        For each group that is cached, in vLLM's order, its layers in the order
        of a slot; None where a layer's are not known.
    """
    layers = vllm_config.compilation_config.static_forward_context
    in_order = [name for tensor in kv_cache_config.kv_cache_tensors for name in tensor.layers]
    # Layers are nearly always alike, and a large page takes a while.
    known: dict[object, PagePart | None] = {}
    groups: list[list[PagePart] | None] = []
    for group in cached_groups(kv_cache_config):
        parts: list[PagePart] = []
        names = [name for name in in_order if name in group.layer_names]
        for name in names:
            spec = getattr(group.kv_cache_spec, "kv_cache_specs", {}).get(name, group.kv_cache_spec)
            layer, cache = layers.get(name), kv_caches[name]
            # By what the answer depends on: the page's form, and who writes it how.
            kind = (spec, cache.shape[1:], cache.stride(), type(getattr(layer, "impl", None)))
            if kind not in known:
                blocks = cache.shape[0] // kv_cache_config.num_blocks
                known[kind] = _ask(vllm_config, spec, layer, cache[:blocks])
            if (part := known[kind]) is not None:
                parts.append(part)
        groups.append(parts if len(parts) == len(names) else None)
    return groups


def _ask(
    vllm_config: VllmConfig, spec: KVCacheSpec, layer: object, page: torch.Tensor
) -> PagePart | None:
    """Let a layer write tokens into a page like one of its own; None where it cannot."""
    if type(spec) not in (FullAttentionSpec, SlidingWindowSpec) or type(layer) is not Attention:
        return None
    try:
        return _find(vllm_config, spec, layer, page)
    except Exception as error:  # noqa: BLE001 - a backend that is called otherwise, whatever it raises
        log.info("tails.unknown_layout", reason=f"{type(error).__name__}: {error}")
        return None


def _find(
    vllm_config: VllmConfig, spec: FullAttentionSpec, layer: Attention, page: torch.Tensor
) -> PagePart | None:
    scratch = page.clone(memory_format=torch.preserve_format)
    if scratch.stride()[1:] != page.stride()[1:]:
        return None
    tokens = spec.block_size
    content = torch.as_strided(scratch, (scratch.numel(),), (1,)).view(torch.uint8)
    shapes = [(tokens, layer.num_kv_heads, size) for size in (spec.head_size, spec.head_size_v)]
    key, value = (
        torch.ones(shape, dtype=vllm_config.model_config.dtype, device=page.device)
        for shape in shapes
    )
    positions = torch.arange(tokens, dtype=torch.int64, device=page.device)

    def written(chosen: torch.Tensor) -> torch.Tensor:
        changed = torch.zeros(content.numel(), dtype=torch.bool)
        for fill in FILLS:
            content.fill_(fill)
            which = positions[chosen]
            layer.impl.do_kv_cache_update(layer, key[which], value[which], scratch, which)
            changed |= content.cpu() != fill
        return changed

    owned = written(torch.ones(tokens, dtype=torch.bool, device=page.device))
    owner = torch.zeros(content.numel(), dtype=torch.int32)
    for bit in range((tokens - 1).bit_length()):
        chosen = (positions >> bit & 1).bool()
        ones, zeros = written(chosen), written(~chosen)
        if (ones & zeros).any() or ((ones | zeros) != owned).any():
            # Tokens share bytes, or a lone token is written otherwise.
            return None
        owner |= ones.int() << bit
    owner[~owned] = tokens
    padding = spec.page_size_bytes - owner.numel()
    if padding < 0:
        return None
    whole = torch.cat([owner, torch.full((padding,), tokens, dtype=torch.int32)])
    return PagePart(spec.page_size_bytes, whole.to(torch.int16))
