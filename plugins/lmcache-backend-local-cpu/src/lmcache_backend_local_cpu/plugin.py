"""What this distribution offers; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lmcache_backend_local_cpu.config import LocalCPUConfig
from lmcache_core import hookimpl
from lmcache_core.api import MemoryBackend, MemoryBackendSpec

LMCACHE_PLUGIN_API = (0, 2)


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


def _load_backend() -> Callable[..., MemoryBackend]:
    from lmcache_backend_local_cpu.backend import LocalCPUBackend  # noqa: PLC0415 - loaded lazily

    return LocalCPUBackend
