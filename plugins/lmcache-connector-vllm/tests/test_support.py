"""What the connector declines, each with the KV cache group that is the reason."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from lmcache_core.config import EngineConfig

pytestmark = pytest.mark.vllm


def vllm_config(
    device: str = "cpu", *, mla: bool = False, chunked: bool = True, **parallel: int
) -> Any:
    sizes = {"decode_context_parallel_size": 1, "prefill_context_parallel_size": 1, **parallel}
    return SimpleNamespace(
        model_config=SimpleNamespace(is_encoder_decoder=False, use_mla=mla),
        scheduler_config=SimpleNamespace(enable_chunked_prefill=chunked),
        parallel_config=SimpleNamespace(**sizes),
        cache_config=SimpleNamespace(calculate_kv_scales=False),
        device_config=SimpleNamespace(device_type=device),
    )


def full(**fields: Any) -> Any:
    import torch
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    fields = {"block_size": 32, "num_kv_heads": 2, "head_size": 32, **fields}
    return FullAttentionSpec(dtype=torch.float32, **fields)


def window(kind: str = "SlidingWindowSpec", **fields: Any) -> Any:
    import torch
    from vllm.v1 import kv_cache_interface

    fields = {"block_size": 32, "num_kv_heads": 2, "head_size": 32, "sliding_window": 64, **fields}
    return getattr(kv_cache_interface, kind)(dtype=torch.float32, **fields)


def mamba() -> Any:
    import torch
    from vllm.v1.kv_cache_interface import MambaSpec

    return MambaSpec(block_size=512, shapes=((4, 4),), dtypes=(torch.float32,))


def kv_cache(*specs: Any, **group: Any) -> Any:
    from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheGroupSpec

    groups = [
        KVCacheGroupSpec([f"layers.{number}", f"layers.{number}.b"], spec, **group)
        for number, spec in enumerate(specs)
    ]
    return KVCacheConfig(num_blocks=8, kv_cache_tensors=[], kv_cache_groups=groups)


def why(kv_cache_config: Any, **config: Any) -> str | None:
    from lmcache_connector_vllm.support import why_declined

    return why_declined(vllm_config(**config), kv_cache_config)


def test_full_attention_and_windows_are_served_in_any_mixture() -> None:
    assert why(kv_cache(full())) is None
    assert why(kv_cache(window())) is None
    assert why(kv_cache(window(), window(sliding_window=96), full())) is None


def test_anything_else_is_declined_by_name() -> None:
    reason = why(kv_cache(full(), mamba()))
    assert reason == (
        "KV cache group 1 (layers.1 and 1 more) keeps its KV as MambaSpec; full attention and "
        "sliding windows are supported"
    )
    # A subclass recycles blocks by rules of its own.
    recycled = why(kv_cache(full(), window("SlidingWindowMLASpec")))
    assert recycled is not None
    assert "group 1" in recycled
    assert "SlidingWindowMLASpec" in recycled
    later = why(kv_cache(full(non_causal=True)))
    assert later is not None
    assert "later tokens" in later
    assert why(kv_cache(full(), host_resident=True)) == "KV cache group 0 is not on the device"


def test_several_groups_are_moved_on_cpus_only() -> None:
    reason = why(kv_cache(full(), window()), device="cuda")
    assert reason == "the model has 2 KV cache groups, which are moved on CPUs only"
    assert why(kv_cache(full()), device="cuda") is None


def test_mla_is_declined_where_vllm_cannot_go_on_from_cached_tokens() -> None:
    assert why(kv_cache(full()), mla=True, chunked=False) == (
        "vLLM computes MLA on this CPU only from a prompt's first token on"
    )
    assert why(kv_cache(full()), mla=True) is None
    assert why(kv_cache(full()), chunked=False) is None
    assert why(kv_cache(full()), device="cuda", mla=True, chunked=False) is None


def test_tokens_that_are_spread_over_ranks_are_declined() -> None:
    for size in ("decode_context_parallel_size", "prefill_context_parallel_size"):
        reason = why(kv_cache(full()), **{size: 2})
        assert reason == "context parallelism spreads the tokens of a block over ranks"


def test_a_stage_without_layers_of_a_group_is_declined() -> None:
    config = kv_cache(full(), window())
    config.kv_cache_groups[1].layer_names.clear()
    assert why(config) == "KV cache group 1 has no layers in one of the pipeline's stages"


def test_groups_that_are_not_transferred_are_left_out() -> None:
    from lmcache_connector_vllm.kv_groups import cached_group_ids, common_block_tokens

    config = kv_cache(full(), mamba())
    config.kv_cache_groups[1].enable_kv_transfer = False
    assert why(config) is None
    assert cached_group_ids(config) == (0,)
    assert common_block_tokens(config) == 32
    config.kv_cache_groups[0].enable_kv_transfer = False
    assert why(config) == "the model has no KV cache that may be transferred"


def test_the_engine_is_told_of_windows_and_unlike_blocks() -> None:
    from lmcache_connector_vllm.kv_groups import common_block_tokens, engine_groups
    from lmcache_core.api.connector import KVGroup

    config = kv_cache(window(extra_retained_tokens=3), full(block_size=48))
    offer: Any = SimpleNamespace(
        page_bytes=((10, 11), (20,)), stores=True, clears_tails=(True, True)
    )
    assert engine_groups(config, [offer]) == (
        KVGroup(32, 21, 67, clears_tails=True),
        KVGroup(48, 20, clears_tails=True),
    )
    # Of ranks whose pages are equal, one has a part of the slot.
    same: Any = SimpleNamespace(
        page_bytes=((10, 11), (20,)), stores=False, clears_tails=(True, False)
    )
    next_one: Any = SimpleNamespace(
        page_bytes=((5,), (7, 8)), stores=True, clears_tails=(True, False)
    )
    ranks = [offer, same, next_one, same]
    assert engine_groups(config, ranks) == (
        KVGroup(32, 26, 67, clears_tails=True),
        KVGroup(48, 35),
    )
    assert common_block_tokens(config) == 96


def test_a_chunk_is_made_of_whole_blocks_of_every_group() -> None:
    from lmcache_connector_vllm.settings import fitted_chunk_size
    from lmcache_core.errors import ConfigError

    assert fitted_chunk_size(EngineConfig(), 96) == 288
    with pytest.raises(ConfigError, match="set chunk_size to 192 or 288"):
        fitted_chunk_size(EngineConfig(chunk_size=256, chunk_size_explicit=True), 96)


def test_windows_and_grouping_are_in_the_namespace(
    serve: Callable[..., Any], make_model: Callable[..., Any]
) -> None:
    namespaces = set()
    for arguments in ((), ("--sliding-window", "64"), ("--sliding-window", "96")):
        model = make_model("--layers", "4", *arguments)
        serving = serve(model=model)
        namespaces.add(serving.engine.tiers.namespace.extra.get("kv_groups"))
    assert namespaces == {None, "1*64 1*64 1*64 1*full", "1*96 1*96 1*96 1*full"}
