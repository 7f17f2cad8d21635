"""Host memory for lmcache: ``LocalCPUBackend`` and the policies of every tier."""
