"""Why a request is served without the cache."""

from __future__ import annotations

from lmcache_core.errors import LMCacheError


class UncacheableError(LMCacheError):
    """What a request computes depends on something that cannot be named."""
