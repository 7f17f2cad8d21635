"""Configuration: files, environment and overrides become one frozen Struct."""

from __future__ import annotations

from lmcache_core.config.engine import EngineConfig, TierConfig
from lmcache_core.config.plugin import plugin_section

__all__ = ["EngineConfig", "TierConfig", "plugin_section"]
