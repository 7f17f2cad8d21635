"""What a plugin implements and what it is handed.

One module per noun: ``storage``, ``memory``, ``serde``, ``transport``,
``eviction`` and ``connector`` are the contracts; ``spec`` is what hooks hand
over; ``messages`` is what travels between engine and controller.
"""

from __future__ import annotations

from lmcache_core.api.capability import Capability
from lmcache_core.api.context import BackendContext
from lmcache_core.api.deadline import Deadline
from lmcache_core.api.eviction import EvictionPolicy
from lmcache_core.api.memory import Extent, ExtentHandle, MemoryBackend
from lmcache_core.api.serde import KVSpec, Serde
from lmcache_core.api.spec import (
    PLUGIN_API,
    ApiVersion,
    ConnectorSpec,
    EvictionPolicySpec,
    MemoryBackendSpec,
    PluginSpec,
    SerdeSpec,
    StorageBackendSpec,
    TransportSpec,
)
from lmcache_core.api.storage import PutStatus, StorageBackend, StoreUsage

__all__ = [
    "PLUGIN_API",
    "ApiVersion",
    "BackendContext",
    "Capability",
    "ConnectorSpec",
    "Deadline",
    "EvictionPolicy",
    "EvictionPolicySpec",
    "Extent",
    "ExtentHandle",
    "KVSpec",
    "MemoryBackend",
    "MemoryBackendSpec",
    "PluginSpec",
    "PutStatus",
    "Serde",
    "SerdeSpec",
    "StorageBackend",
    "StorageBackendSpec",
    "StoreUsage",
    "TransportSpec",
]
