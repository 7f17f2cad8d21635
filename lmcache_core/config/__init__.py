"""Configuration: files, environment and overrides become one frozen Struct."""

from __future__ import annotations

from lmcache_core.config.engine import ANYWHERE, EngineConfig, SerdeConfig, TierConfig, TierRules
from lmcache_core.config.plugin import plugin_section
from lmcache_core.config.resolve import Resolved, load_engine_config
from lmcache_core.config.schema import engine_schema
from lmcache_core.config.tier_entry import read_entry

__all__ = [
    "ANYWHERE",
    "EngineConfig",
    "Resolved",
    "SerdeConfig",
    "TierConfig",
    "TierRules",
    "engine_schema",
    "load_engine_config",
    "plugin_section",
    "read_entry",
]
