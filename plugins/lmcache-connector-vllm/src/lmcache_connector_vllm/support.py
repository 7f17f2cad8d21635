"""What the connector does not serve, each said in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    MLAAttentionSpec,
    SlidingWindowSpec,
    iter_layer_specs,
)

from lmcache_connector_vllm.kv_groups import cached_group_ids

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheGroupSpec

CACHED: tuple[type, ...] = (FullAttentionSpec, MLAAttentionSpec, SlidingWindowSpec)
"""Kinds of KV that are cached, by exact type: subclasses recycle blocks or keep sinks apart."""

SCATTERED_LAYOUTS = frozenset({"LHBNC", "BHLNC"})
"""Layouts in which a page of a layer is no single run of bytes."""


def why_declined(vllm_config: VllmConfig, kv_cache_config: KVCacheConfig) -> str | None:
    """Why this instance is served without a cache, or None where it is not.

    The scheduler's side asks and so does each rank; where one of them has a
    reason, all go by it.
    """
    if vllm_config.model_config.is_encoder_decoder:
        return "encoder-decoder models keep state that is not in the paged KV cache"
    on_cpu = vllm_config.device_config.device_type == "cpu"
    if (
        on_cpu
        and vllm_config.model_config.use_mla
        and not vllm_config.scheduler_config.enable_chunked_prefill
    ):
        # vLLM has switched its own prefix cache off too: its decode kernel and
        # its prefill do not agree, so that a prompt begun with cached tokens
        # is not answered as a cold one.
        return "vLLM computes MLA on this CPU only from a prompt's first token on"
    parallel = vllm_config.parallel_config
    if max(parallel.decode_context_parallel_size, parallel.prefill_context_parallel_size) > 1:
        return "context parallelism spreads the tokens of a block over ranks"
    if getattr(vllm_config.cache_config, "calculate_kv_scales", False):
        return "KV scales are computed at run time, so equal tokens do not mean equal bytes"
    numbers = cached_group_ids(kv_cache_config)
    if not numbers:
        return "the model has no KV cache that may be transferred"
    for number in numbers:
        reason = _why_group_declined(kv_cache_config.kv_cache_groups[number])
        if reason is not None:
            return f"KV cache group {number} {reason}"
    if len(numbers) > 1 and not on_cpu:
        return f"the model has {len(numbers)} KV cache groups, which are moved on CPUs only"
    if kv_cache_config.kv_cache_layout in SCATTERED_LAYOUTS:
        return f"pages are not contiguous in the KV cache layout {kv_cache_config.kv_cache_layout}"
    return None


def _why_group_declined(group: KVCacheGroupSpec) -> str | None:
    if not group.layer_names:
        return "has no layers in one of the pipeline's stages"
    if group.host_resident:
        return "is not on the device"
    for spec in iter_layer_specs(group.kv_cache_spec):
        if type(spec) not in CACHED:
            return (
                f"({_layers(group)}) keeps its KV as {type(spec).__name__}; full attention and "
                "sliding windows are supported"
            )
        if getattr(spec, "non_causal", False):
            return f"({_layers(group)}) attends to later tokens, so a prefix has no KV of its own"
    return None


def _layers(group: KVCacheGroupSpec) -> str:
    first, *others = group.layer_names
    return f"{first} and {len(others)} more" if others else first
