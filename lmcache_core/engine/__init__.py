"""The cache of one serving instance: index, tiers, pins, transfers, control agent.

An engine connector calls :func:`start` and drives what it returns through
:class:`lmcache_core.api.connector.CacheFacade`.
"""

from __future__ import annotations

from lmcache_core.engine.cache_engine import CacheEngine
from lmcache_core.engine.start import start

__all__ = ["CacheEngine", "start"]
