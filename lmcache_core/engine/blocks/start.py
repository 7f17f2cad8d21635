"""Putting a store of blocks together from its configuration and the installed plugins."""

from __future__ import annotations

import threading

from lmcache_core.api.connector import KVGroup
from lmcache_core.config import EngineConfig, TierConfig
from lmcache_core.engine.blocks.store import BlockStore
from lmcache_core.engine.chunks.geometry import Geometry
from lmcache_core.engine.frames.frame import FrameSeal
from lmcache_core.engine.storage.start import TierStarter
from lmcache_core.errors import ConfigError
from lmcache_core.keys import Namespace
from lmcache_core.plugins import PluginRegistry


def make_block_store(
    *,
    config: EngineConfig,
    tier: TierConfig,
    namespace: Namespace,
    block_bytes: int,
    registry: PluginRegistry,
) -> BlockStore:
    """Make a store of blocks over one storage backend, not opened yet.

    Args:
        config: The instance's id, deadlines, eviction policy and staging memory.
        tier: The backend, its bound, its serdes and its own section.
        namespace: What the frames are bound to, with a ``chunk_size`` of 1:
            each block is a chunk of its own.
        block_bytes: Length of a block.
        registry: The installed plugins.

    Raises:
        ConfigError: The section, or that of a serde, is wrong.
        UnknownNameError: The backend, a serde or the policy is not installed.
        PluginError: A plugin that is named is broken.
    """
    if namespace.chunk_size != 1:
        raise ConfigError(f"a block is one chunk, and the chunk size is {namespace.chunk_size}")
    lock = threading.RLock()
    geometry = Geometry([KVGroup(1, block_bytes)])
    starter = TierStarter(
        config,
        registry,
        namespace=namespace,
        geometry=geometry,
        rule=None,
        seal=FrameSeal(namespace.digest(), geometry),
        lock=lock,
    )
    policy = registry.eviction_policy(config.cache_policy)
    return BlockStore(
        starter.make(tier, policy.load()(policy.config())),
        threading.Condition(lock),
        block_bytes=block_bytes,
        staging_bytes=config.staging_bytes,
        call_seconds=config.storage_timeout_seconds,
    )
