"""The KV connector between vLLM and lmcache-core.

``takeover`` puts :class:`~lmcache_connector_vllm.connector.LMCacheConnectorV1`
into vLLM's registry. The class delegates to two sides: ``scheduler_side``
drives the engine, ``worker_side`` moves pages.
"""
