"""The cache of one serving instance: index, tiers, pins, transfers, control agent.

An engine connector calls :func:`start` and drives what it returns through
:class:`lmcache_core.api.connector.CacheFacade`. A host that has an index of
its own, and wants a backend below it and nothing else, calls
:func:`make_block_store`.
"""

from __future__ import annotations

from lmcache_core.engine.blocks.start import make_block_store
from lmcache_core.engine.blocks.store import BlockStore
from lmcache_core.engine.cache.engine import CacheEngine
from lmcache_core.engine.start import start

__all__ = ["BlockStore", "CacheEngine", "make_block_store", "start"]
