"""Host memory for lmcache: ``LocalCPUBackend``."""
