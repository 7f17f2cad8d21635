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
    from lmcache_core.testing.storage import StorageBackendTests

__all__ = ["DictBackend", "DictConfig", "DictStore", "StorageBackendTests"]

_MODULES = {
    "DictBackend": "lmcache_core.testing.dict_backend",
    "DictConfig": "lmcache_core.testing.dict_backend",
    "DictStore": "lmcache_core.testing.dict_backend",
    "StorageBackendTests": "lmcache_core.testing.storage",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name names
    module = _MODULES.get(name)
    if module is None:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(module), name)
