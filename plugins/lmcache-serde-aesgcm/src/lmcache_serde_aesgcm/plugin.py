"""What this distribution offers; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lmcache_core import hookimpl
from lmcache_core.api import Serde, SerdeSpec
from lmcache_serde_aesgcm.config import AESGCMConfig

LMCACHE_PLUGIN_API = (0, 2)


@hookimpl
def lmcache_register_serdes() -> Sequence[SerdeSpec]:
    """Offer ``aesgcm``."""
    return [
        SerdeSpec(
            name="aesgcm",
            summary="encrypts and authenticates frames with AES-256-GCM",
            load=_load,
            config=AESGCMConfig,
            authenticates=True,
        )
    ]


def _load() -> Callable[..., Serde]:
    from lmcache_serde_aesgcm.serde import AESGCMSerde  # noqa: PLC0415 - loaded lazily

    return AESGCMSerde
