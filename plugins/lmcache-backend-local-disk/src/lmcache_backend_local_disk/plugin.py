"""What this distribution offers; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lmcache_backend_local_disk.config import LocalDiskConfig
from lmcache_core import hookimpl
from lmcache_core.api import Capability, StorageBackend, StorageBackendSpec

LMCACHE_PLUGIN_API = (0, 2)


@hookimpl
def lmcache_register_storage_backends() -> Sequence[StorageBackendSpec]:
    """Offer ``LocalDiskBackend``."""
    return [
        StorageBackendSpec(
            name="LocalDiskBackend",
            summary="files in a folder of a local disk, found again after a restart",
            load=_load_backend,
            config=LocalDiskConfig,
            capabilities=Capability.DURABLE
            | Capability.SYNC
            | Capability.SCAN
            | Capability.USAGE
            | Capability.REPLACE,
        )
    ]


def _load_backend() -> Callable[..., StorageBackend]:
    from lmcache_backend_local_disk.backend import LocalDiskBackend  # noqa: PLC0415 - loaded lazily

    return LocalDiskBackend
