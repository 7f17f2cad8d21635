"""The conformance kit and the reference backend.

Beside the floors: nothing of the core imports it. Needs the ``testing`` extra
(pytest). Names are imported when they are first asked for, because pytest
has to be told to rewrite the kit's assertions before the kit is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmcache_core.testing.dict_backend import DictBackend, DictConfig, DictStore
    from lmcache_core.testing.eviction import EvictionPolicyTests
    from lmcache_core.testing.faults import FaultyBackend, LateBackend
    from lmcache_core.testing.queue_transport import QueueTransport
    from lmcache_core.testing.serde import SerdeTests
    from lmcache_core.testing.storage import StorageBackendTests
    from lmcache_core.testing.transport import ControllerTransportTests

__all__ = [
    "ControllerTransportTests",
    "DictBackend",
    "DictConfig",
    "DictStore",
    "EvictionPolicyTests",
    "FaultyBackend",
    "LateBackend",
    "QueueTransport",
    "SerdeTests",
    "StorageBackendTests",
]

_MODULES = {
    "ControllerTransportTests": "lmcache_core.testing.transport",
    "DictBackend": "lmcache_core.testing.dict_backend",
    "DictConfig": "lmcache_core.testing.dict_backend",
    "DictStore": "lmcache_core.testing.dict_backend",
    "EvictionPolicyTests": "lmcache_core.testing.eviction",
    "FaultyBackend": "lmcache_core.testing.faults",
    "LateBackend": "lmcache_core.testing.faults",
    "QueueTransport": "lmcache_core.testing.queue_transport",
    "SerdeTests": "lmcache_core.testing.serde",
    "StorageBackendTests": "lmcache_core.testing.storage",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name names
    module = _MODULES.get(name)
    if module is None:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(module), name)
