"""Why an instance is served without a cache."""

from __future__ import annotations

from lmcache_core.errors import LMCacheError


class UnservedError(LMCacheError):
    """The instance is one that the connector declines; nothing has failed."""
