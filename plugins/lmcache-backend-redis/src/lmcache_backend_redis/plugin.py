"""What this distribution offers; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lmcache_backend_redis.config import RedisConfig
from lmcache_core import hookimpl
from lmcache_core.api import Capability, StorageBackend, StorageBackendSpec

LMCACHE_PLUGIN_API = (0, 2)


@hookimpl
def lmcache_register_storage_backends() -> Sequence[StorageBackendSpec]:
    """Offer ``redis``."""
    return [
        StorageBackendSpec(
            name="redis",
            summary="Redis or Valkey, one server or a cluster, shared by several engines",
            load=_load_backend,
            config=RedisConfig,
            capabilities=Capability.SHARED | Capability.SELF_EVICTING | Capability.REPLACE,
        )
    ]


def _load_backend() -> Callable[..., StorageBackend]:
    from lmcache_backend_redis.backend import RedisBackend  # noqa: PLC0415 - loaded lazily

    return RedisBackend
