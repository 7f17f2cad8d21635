"""What this distribution offers; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lmcache_core import hookimpl
from lmcache_core.api import Serde, SerdeSpec
from lmcache_serde_zstd.config import ZstdConfig

LMCACHE_PLUGIN_API = (0, 2)


@hookimpl
def lmcache_register_serdes() -> Sequence[SerdeSpec]:
    """Offer ``zstd``."""
    return [
        SerdeSpec(
            name="zstd", summary="compresses frames without loss", load=_load, config=ZstdConfig
        )
    ]


def _load() -> Callable[..., Serde]:
    from lmcache_serde_zstd.serde import ZstdSerde  # noqa: PLC0415 - loaded lazily

    return ZstdSerde
