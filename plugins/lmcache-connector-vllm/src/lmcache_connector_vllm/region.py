"""The shared region of an instance, made by its first rank, mapped by all others."""

from __future__ import annotations

from lmcache_core.api import BackendContext, ExtentHandle
from lmcache_core.config import EngineConfig
from lmcache_core.memory import HostRegion
from lmcache_core.plugins import PluginRegistry


def create_region(config: EngineConfig, registry: PluginRegistry) -> HostRegion:
    """Make the region: the memory tier and the staging part, in one.

    Raises:
        ConfigError: The first tier is no memory backend, or its section wrong.
        UnknownNameError: The backend is not installed.
        BackendError: The memory cannot be had.
    """
    tier = config.memory_tier
    nbytes = (tier.capacity_bytes or 0) + config.staging_bytes
    spec = registry.memory_backend(tier.backend)
    return HostRegion.create(spec, tier.options, _context(config), nbytes)


def attach_region(
    config: EngineConfig, registry: PluginRegistry, handle: ExtentHandle
) -> HostRegion:
    """Map the region that the first rank made.

    Raises:
        BackendError: It is another host's, gone, or may not be opened.
    """
    tier = config.memory_tier
    spec = registry.memory_backend(tier.backend)
    return HostRegion.attach(spec, tier.options, _context(config), handle)


def _context(config: EngineConfig) -> BackendContext:
    return BackendContext(instance_id=config.instance_id, tier=config.memory_tier.backend)
