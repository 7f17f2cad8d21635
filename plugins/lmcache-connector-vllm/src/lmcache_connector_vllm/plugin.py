"""Entry point of the plugin: what ``lmcache plugins`` lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lmcache_core import hookimpl
from lmcache_core.api import ConnectorSpec

LMCACHE_PLUGIN_API = (0, 2)


def load_connector() -> Callable[..., Any]:
    """Import the connector class; this imports vLLM and torch."""
    from lmcache_connector_vllm.connector import LMCacheConnectorV1  # noqa: PLC0415

    return LMCacheConnectorV1


@hookimpl
def lmcache_register_engine_connectors() -> Sequence[ConnectorSpec]:
    """Offer the connector for vLLM."""
    return [
        ConnectorSpec(
            name="LMCacheConnectorV1",
            summary="connects vLLM 0.32 and 0.33 to the cache",
            load=load_connector,
        )
    ]
