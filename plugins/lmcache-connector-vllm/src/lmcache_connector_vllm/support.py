"""What the connector does not serve, each said in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm.v1.kv_cache_interface import FullAttentionSpec, MLAAttentionSpec, iter_layer_specs

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig

SCATTERED_LAYOUTS = frozenset({"LHBNC", "BHLNC"})
"""Layouts in which a page of a layer is no single run of bytes."""


def why_declined(vllm_config: VllmConfig, kv_cache_config: KVCacheConfig) -> str | None:
    """Why this instance is served without a cache, or None where it is not.

    Both sides of the connector ask, and reach the same answer.
    """
    if vllm_config.model_config.is_encoder_decoder:
        return "encoder-decoder models keep state that is not in the paged KV cache"
    ranks = vllm_config.parallel_config.world_size
    if ranks > 1:
        return f"the model runs on {ranks} ranks; one is supported so far"
    if getattr(vllm_config.cache_config, "calculate_kv_scales", False):
        return "KV scales are computed at run time, so equal tokens do not mean equal bytes"
    groups = kv_cache_config.kv_cache_groups
    if len(groups) != 1:
        return (
            f"the model has {len(groups)} KV cache groups (sliding windows, state or none at "
            "all); one group of full attention is supported so far"
        )
    group = groups[0]
    if not group.enable_kv_transfer or group.host_resident:
        return "the model's KV cache is not on the device or not for transfer"
    for spec in iter_layer_specs(group.kv_cache_spec):
        # Exact types: subclasses recycle blocks or keep sinks apart.
        if type(spec) not in (FullAttentionSpec, MLAAttentionSpec):
            return f"layers keep their KV as {type(spec).__name__}; full attention is supported"
        if spec.non_causal:
            return "layers attend to later tokens, so a prefix has no KV of its own"
    if kv_cache_config.kv_cache_layout in SCATTERED_LAYOUTS:
        return f"pages are not contiguous in the KV cache layout {kv_cache_config.kv_cache_layout}"
    return None
