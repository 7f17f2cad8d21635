"""Starting the engine in the process that schedules."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from vllm.v1.metrics.cache_hit_source import CacheHitSource

from lmcache_connector_vllm.kv_groups import engine_groups
from lmcache_connector_vllm.metadata import WorkerOffer
from lmcache_connector_vllm.namespace import namespace_of
from lmcache_connector_vllm.region import attach_region
from lmcache_core.api import Capability, StorageBackendSpec
from lmcache_core.api.connector import CacheFacade
from lmcache_core.config import EngineConfig
from lmcache_core.engine import start
from lmcache_core.plugins import PluginRegistry

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig


class Launched:
    """A running engine, and what was opened for it.

    Args:
        vllm_config: vLLM's configuration.
        kv_cache_config: The KV cache as vLLM laid it out.
        config: The instance's configuration.
        offers: What the ranks handed over, in the order of their shards.

    Attributes:
        facade: The engine.
        sources: What vLLM calls each tier in its metrics.
        announces: Whether vLLM publishes what comes and goes.

    Raises:
        ConfigError: A tier's section is wrong.
        UnknownNameError: A plugin is not installed.
        PluginError: A plugin is broken.
        BackendError: Memory or a store cannot be used.
    """

    facade: CacheFacade

    def __init__(
        self,
        vllm_config: VllmConfig,
        kv_cache_config: KVCacheConfig,
        config: EngineConfig,
        offers: Sequence[WorkerOffer],
    ) -> None:
        registry = PluginRegistry.discover()
        events = vllm_config.kv_events_config
        self.announces = events is not None and events.enable_kv_cache_events
        self.sources = {tier.backend: _source(tier.backend, registry) for tier in config.tiers}
        with ExitStack() as opened:
            region = attach_region(config, registry, offers[0].extent)
            opened.callback(region.close)
            region.forget_name()
            self.facade = start(
                config=config,
                namespace=namespace_of(vllm_config, kv_cache_config, config, offers),
                region=region,
                groups=engine_groups(kv_cache_config, offers),
                registry=registry,
            )
            opened.callback(self.facade.close)
            if self.announces:
                self.facade.follow_changes()
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Close the engine, then the region; idempotent."""
        self._opened.close()


def _source(backend: str, registry: PluginRegistry) -> CacheHitSource:
    """What vLLM calls a tier, by what kind of thing it is."""
    spec = registry.backend(backend)
    if not isinstance(spec, StorageBackendSpec):
        return CacheHitSource.HOST
    if Capability.DURABLE in spec.capabilities and Capability.SHARED not in spec.capabilities:
        return CacheHitSource.DISK
    return CacheHitSource.EXTERNAL_UNSPECIFIED
