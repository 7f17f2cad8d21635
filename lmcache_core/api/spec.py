"""What hooks hand over: frozen specs that do no work until they are loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import msgspec

from lmcache_core.api.capability import Capability
from lmcache_core.api.context import BackendContext
from lmcache_core.api.eviction import EvictionPolicy
from lmcache_core.api.memory import MemoryBackend
from lmcache_core.api.serde import Serde
from lmcache_core.api.storage import StorageBackend
from lmcache_core.api.transport import ControllerTransport


class ApiVersion(NamedTuple):
    """Version of the plugin interface.

    A core loads a plugin when the majors agree and the plugin's minor is not
    above its own; a minor never breaks a plugin built for the one before.
    """

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    def accepts(self, plugin: ApiVersion) -> bool:
        """Whether a core of this version can load ``plugin``."""
        return plugin.major == self.major and plugin.minor <= self.minor


PLUGIN_API = ApiVersion(0, 2)
"""The plugin interface of this core. The minor goes up with every addition, so
that a plugin that uses one says so and an older core refuses it with the reason."""


class EmptyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The configuration section of a plugin that has nothing to configure."""


Product = TypeVar("Product")


class PluginSpec(msgspec.Struct, Generic[Product], frozen=True, kw_only=True):
    """One named thing a plugin offers.

    Attributes:
        kind: What it is, for tables.
        name: What the configuration calls it; for a backend also the tier's
            name, which the wire calls a location.
        summary: One line.
        load: Imports the implementation and returns its factory. Hooks are
            called at every start, also of ``lmcache --help``, so nothing
            heavy is imported before this is called.
        config: The Struct that validates the plugin's own section.
    """

    kind: ClassVar[str] = "plugin"

    name: str
    summary: str
    load: Callable[[], Callable[..., Product]]
    config: type[msgspec.Struct] = EmptyConfig


class StorageBackendSpec(PluginSpec[StorageBackend], frozen=True, kw_only=True):
    """A storage backend; its factory takes (config, BackendContext)."""

    kind: ClassVar[str] = "storage backend"

    capabilities: Capability = Capability.NONE


class MemoryBackendSpec(PluginSpec[MemoryBackend], frozen=True, kw_only=True):
    """A memory backend; its factory takes (config, BackendContext)."""

    kind: ClassVar[str] = "memory backend"


class SerdeSpec(PluginSpec[Serde], frozen=True, kw_only=True):
    """A serde; its factory takes (config).

    Attributes:
        authenticates: Whether ``decode`` takes only bytes that somebody with
            a secret has encoded for that key. A tier that is configured with
            such a serde takes no frame that was written without it.
    """

    kind: ClassVar[str] = "serde"

    authenticates: bool = False


class TransportSpec(PluginSpec[ControllerTransport], frozen=True, kw_only=True):
    """A controller transport; its factory takes (config).

    Attributes:
        schemes: URL schemes of the addresses it serves, for example ``tcp``.
    """

    kind: ClassVar[str] = "controller transport"

    schemes: tuple[str, ...] = ()


class ConnectorSpec(PluginSpec[Any], frozen=True, kw_only=True):
    """An engine connector; its factory is the class the engine instantiates."""

    kind: ClassVar[str] = "engine connector"


class EvictionPolicySpec(PluginSpec[EvictionPolicy], frozen=True, kw_only=True):
    """An eviction policy; its factory takes (config)."""

    kind: ClassVar[str] = "eviction policy"


__all__ = [
    "PLUGIN_API",
    "ApiVersion",
    "BackendContext",
    "ConnectorSpec",
    "EmptyConfig",
    "EvictionPolicySpec",
    "MemoryBackendSpec",
    "PluginSpec",
    "SerdeSpec",
    "StorageBackendSpec",
    "TransportSpec",
]
