"""The namespace of a vLLM instance: who may exchange KV pages with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import vllm

from lmcache_connector_vllm.kv_groups import cached_groups, window_of
from lmcache_connector_vllm.metadata import WorkerOffer
from lmcache_connector_vllm.weights import weights_digest
from lmcache_core.config import EngineConfig
from lmcache_core.keys import Namespace

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.config.model import HfOverrides
    from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheGroupSpec


def namespace_of(
    vllm_config: VllmConfig,
    kv_cache_config: KVCacheConfig,
    config: EngineConfig,
    offers: Sequence[WorkerOffer],
) -> Namespace:
    """Name everything static that decides what is in a page.

    Args:
        vllm_config: vLLM's configuration.
        kv_cache_config: The KV cache as vLLM laid it out.
        config: The instance's configuration.
        offers: What the ranks found, in the order of their shards.
    """
    parallel = vllm_config.parallel_config
    model = vllm_config.model_config
    cache = vllm_config.cache_config
    served = model.served_model_name
    groups = cached_groups(kv_cache_config)
    return Namespace(
        model=served if isinstance(served, str) else served[0],
        weights=weights_digest(model),
        weights_epoch=config.weights_epoch,
        engine="vllm-" + ".".join(vllm.__version__.split(".")[:2]),
        dtype=str(model.dtype).removeprefix("torch."),
        layout=kv_cache_config.kv_cache_layout or "",
        isa="+".join(sorted({offer.isa for offer in offers})),
        block_size=tuple(group.kv_cache_spec.block_size for group in groups),
        page_bytes=tuple(
            chain.from_iterable(
                page_bytes for offer in offers if offer.stores for page_bytes in offer.page_bytes
            )
        ),
        chunk_size=config.chunk_size,
        ranks=parallel.world_size,
        extra={
            "attention_backend": str(vllm_config.attention_config.backend),
            "hf_overrides": _spelled(model.hf_overrides),
            "kv_cache_dtype": str(cache.cache_dtype),
            "load_format": str(vllm_config.load_config.load_format),
            "max_model_len": str(model.max_model_len),
            "pipeline_parallel_size": str(parallel.pipeline_parallel_size),
            "quantization": str(model.quantization),
            "tensor_parallel_size": str(parallel.tensor_parallel_size),
            **_grouping(groups, offers),
        },
    )


def _grouping(groups: Sequence[KVCacheGroupSpec], offers: Sequence[WorkerOffer]) -> dict[str, str]:
    """Which layers share a block table and how far they see; nothing for plain models."""
    windows = [window_of(group.kv_cache_spec) for group in groups]
    if windows == [None]:
        return {}
    parts = (
        f"{len(page_bytes)}*{window or 'full'}"
        for offer in offers
        if offer.stores
        for page_bytes, window in zip(offer.page_bytes, windows, strict=True)
    )
    return {"kv_groups": " ".join(parts)}


def _spelled(overrides: HfOverrides) -> str:
    if callable(overrides):
        return f"{overrides.__module__}.{overrides.__qualname__}"
    return json.dumps(overrides, sort_keys=True, default=str)
