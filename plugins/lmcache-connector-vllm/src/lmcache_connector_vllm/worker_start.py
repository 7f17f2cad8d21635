"""Starting the worker's side: all ranks of an instance, or none."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch

from lmcache_connector_vllm.kv_pages import page_tables
from lmcache_connector_vllm.peers import Peers
from lmcache_connector_vllm.place import Place
from lmcache_connector_vllm.region import attach_region, create_region
from lmcache_connector_vllm.shard import RankFacts, Shard, shard_of
from lmcache_connector_vllm.tiles import ask_for_tiles
from lmcache_connector_vllm.worker_side import WorkerSide
from lmcache_core.api import ExtentHandle
from lmcache_core.config import EngineConfig
from lmcache_core.memory import HostRegion
from lmcache_core.plugins import PluginRegistry

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig


def agree_on_shards(
    peers: Peers,
    kv_cache_config: KVCacheConfig,
    kv_caches: Mapping[str, torch.Tensor],
    declined: str | None,
) -> Shard:
    """Learn what part of a chunk this rank holds.

    Every rank calls it, one that is to be served without a cache too: the
    others wait for its word.

    Args:
        peers: The ranks.
        kv_cache_config: This rank's KV cache as vLLM laid it out.
        kv_caches: The layers' views of it, by name.
        declined: Why this rank is to be served without a cache, or None.

    Raises:
        UnservedError: The instance is to be served without one.
        PeerError: Another rank failed.
        LMCacheError: The pages cannot be found.
    """

    def facts() -> RankFacts:
        tables = [] if declined else page_tables(kv_cache_config, kv_caches)
        return RankFacts(
            place=Place.here(),
            block_bytes=tuple(table.block_bytes for table in tables),
            replicas=getattr(kv_cache_config, "kv_tp_replicas", 1),
            declined=declined,
        )

    return shard_of(peers.agree(facts, RankFacts), peers.index)


def start_worker(
    peers: Peers,
    shard: Shard,
    config: EngineConfig,
    *,
    vllm_config: VllmConfig,
    kv_cache_config: KVCacheConfig,
    kv_caches: Mapping[str, torch.Tensor],
) -> WorkerSide:
    """Make the region on the first rank, map it on the others, start the movers.

    Args:
        peers: The ranks; all of them call it.
        shard: What part of a chunk this one holds.
        config: The instance's configuration.
        vllm_config: vLLM's configuration.
        kv_cache_config: This rank's KV cache as vLLM laid it out.
        kv_caches: The layers' views of the KV cache, by name.

    Raises:
        ConfigError: The first tier is no memory backend, or its section wrong.
        UnknownNameError: The backend is not installed.
        PeerError: Another rank failed.
        LMCacheError: The memory cannot be had, or pages cannot be moved here.
    """
    ask_for_tiles()
    registry = PluginRegistry.discover()
    with ExitStack() as undone:
        made: list[HostRegion] = []

        def make() -> ExtentHandle | None:
            if peers.index:
                return None
            region = create_region(config, registry)
            undone.callback(region.close)
            made.append(region)
            return region.extent.handle

        (handle, *_) = peers.agree(make, ExtentHandle | None)  # type: ignore[arg-type]
        started: list[WorkerSide] = []

        def start() -> None:
            if not made:
                region = attach_region(config, registry, handle)
                undone.callback(region.close)
                made.append(region)
            side = WorkerSide(vllm_config, kv_cache_config, made[0], shard, kv_caches)
            undone.callback(side.close)
            started.append(side)

        peers.agree(start, type(None))
        undone.pop_all()
    return started[0]
