"""What this distribution offers; imported at every start, so it imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lmcache_core import hookimpl
from lmcache_core.api import Capability, StorageBackend, StorageBackendSpec

from lmcache_backend_shelf.config import Config

LMCACHE_PLUGIN_API = (0, 2)


@hookimpl
def lmcache_register_storage_backends() -> Sequence[StorageBackendSpec]:
    """Offer ``ShelfBackend``."""
    return [
        StorageBackendSpec(
            name="ShelfBackend",
            summary="frames as files in a folder",
            load=load,
            config=Config,
            capabilities=Capability.DURABLE | Capability.SCAN,
        )
    ]


def load() -> Callable[..., StorageBackend]:
    """Import the backend, which is done only where a configuration names it."""
    from lmcache_backend_shelf import backend

    return backend.ShelfBackend
