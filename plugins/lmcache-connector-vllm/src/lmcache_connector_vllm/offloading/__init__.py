"""Storage backends of lmcache below vLLM's own ``OffloadingConnector``.

A secondary tier of vLLM's ``TieringOffloadingSpec``, named by ``type`` and
``module_path``. Only vLLM imports this package, and only where it is named.
"""

from __future__ import annotations

from lmcache_connector_vllm.offloading.tier import LMCacheTier

__all__ = ["LMCacheTier"]
