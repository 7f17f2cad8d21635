"""What this distribution offers; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lmcache_backend_object_store.config import ObjectStoreConfig
from lmcache_core import hookimpl
from lmcache_core.api import Capability, StorageBackend, StorageBackendSpec

LMCACHE_PLUGIN_API = (0, 2)


@hookimpl
def lmcache_register_storage_backends() -> Sequence[StorageBackendSpec]:
    """Offer ``object-store``."""
    return [
        StorageBackendSpec(
            name="object-store",
            summary="S3, GCS, Azure or a folder, shared by several engines",
            load=_load_backend,
            config=ObjectStoreConfig,
            capabilities=Capability.DURABLE
            | Capability.SHARED
            | Capability.SCAN
            | Capability.REPLACE,
        )
    ]


def _load_backend() -> Callable[..., StorageBackend]:
    from lmcache_backend_object_store.backend import ObjectStoreBackend  # noqa: PLC0415 - lazily

    return ObjectStoreBackend
