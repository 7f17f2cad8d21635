"""What this distribution offers; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lmcache_backend_local_cpu.config import LocalCPUConfig
from lmcache_core import hookimpl
from lmcache_core.api import EvictionPolicy, EvictionPolicySpec, MemoryBackend, MemoryBackendSpec

LMCACHE_PLUGIN_API = (0, 1)


@hookimpl
def lmcache_register_storage_backends() -> Sequence[MemoryBackendSpec]:
    """Offer ``LocalCPUBackend``."""
    return [
        MemoryBackendSpec(
            name="LocalCPUBackend",
            summary="host memory, shared by the processes of one instance",
            load=_load_backend,
            config=LocalCPUConfig,
        )
    ]


@hookimpl
def lmcache_register_eviction_policies() -> Sequence[EvictionPolicySpec]:
    """Offer ``LRU`` and ``MRU``."""
    return [
        EvictionPolicySpec(name="LRU", summary="evicts what was used longest ago", load=_load_lru),
        EvictionPolicySpec(
            name="MRU", summary="evicts what was used last; for scans that repeat", load=_load_mru
        ),
    ]


def _load_backend() -> Callable[..., MemoryBackend]:
    from lmcache_backend_local_cpu.backend import LocalCPUBackend  # noqa: PLC0415 - loaded lazily

    return LocalCPUBackend


def _load_lru() -> Callable[..., EvictionPolicy]:
    from lmcache_backend_local_cpu.policies import LRU  # noqa: PLC0415 - loaded lazily

    return LRU


def _load_mru() -> Callable[..., EvictionPolicy]:
    from lmcache_backend_local_cpu.policies import MRU  # noqa: PLC0415 - loaded lazily

    return MRU
