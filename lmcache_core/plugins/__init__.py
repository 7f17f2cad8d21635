"""Finding plugins, keeping a record of each, and choosing by name."""

from __future__ import annotations

from lmcache_core.plugins.listing import (
    ConfigKey,
    Offer,
    configuration_keys,
    find_offers,
    list_plugins,
)
from lmcache_core.plugins.record import PluginRecord, PluginStatus
from lmcache_core.plugins.registry import INSTALL_HINTS, PluginRegistry

__all__ = [
    "INSTALL_HINTS",
    "ConfigKey",
    "Offer",
    "PluginRecord",
    "PluginRegistry",
    "PluginStatus",
    "configuration_keys",
    "find_offers",
    "list_plugins",
]
