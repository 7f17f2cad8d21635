"""vLLM's KV cache groups, as far as they are cached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vllm.v1.kv_cache_interface import SlidingWindowSpec, iter_layer_specs

from lmcache_core.api.connector import KVGroup

if TYPE_CHECKING:
    from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheGroupSpec, KVCacheSpec

    from lmcache_connector_vllm.metadata import WorkerOffer


def cached_group_ids(kv_cache_config: KVCacheConfig) -> tuple[int, ...]:
    """Numbers of the groups that are cached; vLLM rebuilds the others from them."""
    return tuple(
        number
        for number, group in enumerate(kv_cache_config.kv_cache_groups)
        if group.enable_kv_transfer
    )


def cached_groups(kv_cache_config: KVCacheConfig) -> list[KVCacheGroupSpec]:
    """The groups that are cached, in vLLM's order."""
    return [kv_cache_config.kv_cache_groups[n] for n in cached_group_ids(kv_cache_config)]


def window_of(spec: KVCacheSpec) -> int | None:
    """Tokens that a group's layers attend to, or None where they attend to all.

    Where speculative layers may compute some tokens anew, vLLM keeps the
    blocks of as many more, and so they are needed too.
    """
    windows = [
        int(layer.sliding_window + layer.extra_retained_tokens)
        for layer in iter_layer_specs(spec)
        if isinstance(layer, SlidingWindowSpec)
    ]
    return max(windows, default=None)


def common_block_tokens(kv_cache_config: KVCacheConfig) -> int:
    """Tokens after which the blocks of all groups end together."""
    groups = cached_groups(kv_cache_config)
    return math.lcm(*(group.kv_cache_spec.block_size for group in groups))


def engine_groups(
    kv_cache_config: KVCacheConfig, offers: Sequence[WorkerOffer]
) -> tuple[KVGroup, ...]:
    """The groups as the engine needs to know them.

    Args:
        kv_cache_config: The KV cache as vLLM laid it out.
        offers: What the ranks found.
    """
    return tuple(
        KVGroup(
            group.kv_cache_spec.block_size,
            sum(sum(offer.page_bytes[number]) for offer in offers if offer.stores),
            window_of(group.kv_cache_spec),
            clears_tails=all(offer.clears_tails[number] for offer in offers if offer.stores),
        )
        for number, group in enumerate(cached_groups(kv_cache_config))
    )
