"""Kits for what is installed, made by its own factory: ``lmcache plugins check`` runs them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lmcache_core.api import (
    BackendContext,
    Capability,
    EvictionPolicy,
    EvictionPolicySpec,
    PluginSpec,
    Serde,
    SerdeSpec,
    StorageBackend,
    StorageBackendSpec,
    TransportSpec,
)
from lmcache_core.api.transport import ControllerTransport
from lmcache_core.config import plugin_section
from lmcache_core.config.placeholder import in_folder
from lmcache_core.keys import Key
from lmcache_core.plugins import PluginRegistry
from lmcache_core.testing.calls import soon
from lmcache_core.testing.conformance import Conformance
from lmcache_core.testing.eviction import EvictionPolicyTests
from lmcache_core.testing.serde import SerdeTests
from lmcache_core.testing.storage import StorageBackendTests
from lmcache_core.testing.transport import ControllerTransportTests

HOST = "127.0.0.1"


class Installed:
    """What the kits below have in common.

    Attributes:
        spec: What is checked.
        options: Its section of the configuration.
    """

    spec: ClassVar[PluginSpec[Any]]
    options: ClassVar[Mapping[str, Any]]

    @pytest.fixture
    def make(self, tmp_path: Path) -> Callable[..., Any]:
        """Make one, with further arguments of its factory."""
        options = in_folder(dict(self.options), str(tmp_path))
        where = f"{self.spec.kind} {self.spec.name}"
        return partial(self.spec.load(), plugin_section(self.spec.config, options, where))


class InstalledBackend(Installed, StorageBackendTests):
    """A storage backend over the store that its configuration names."""

    @pytest.fixture
    def make_backend(self, make: Callable[..., StorageBackend]) -> Iterator[Callable[[], Any]]:
        """Make backends over one store, and take out of it what they have put in."""
        context = BackendContext(instance_id="lmcache-check", tier=self.spec.name)
        put_keys: set[Key] = set()

        def open_to_all() -> StorageBackend:
            backend = make(context)
            put = backend.put

            def remember(keys: Any, frames: Any, deadline: Any) -> Any:  # noqa: ANN401 - handed on
                put_keys.update(keys)
                return put(keys, frames, deadline)

            backend.put = remember  # type: ignore[method-assign] # only to know what to remove
            return backend

        self._refuse_a_store_in_use(make(context))
        yield open_to_all
        if put_keys:
            backend = make(context)
            backend.open()
            backend.remove(list(put_keys), soon())
            backend.close()

    def _refuse_a_store_in_use(self, backend: StorageBackend) -> None:
        if Capability.SCAN not in self.capabilities:
            return
        backend.open()
        try:
            if any(True for _ in backend.scan()):
                pytest.fail(
                    "the store is not empty; the checks need one of their own: name an empty one "
                    "with --config"
                )
        finally:
            backend.close()


class InstalledSerde(Installed, SerdeTests):
    """A serde as it is configured."""

    @pytest.fixture
    def make_serde(self, make: Callable[[], Serde]) -> Callable[[], Serde]:
        """Make serdes of one configuration."""
        return make


class InstalledPolicy(Installed, EvictionPolicyTests):
    """An eviction policy as it is configured."""

    @pytest.fixture
    def make_policy(self, make: Callable[[], EvictionPolicy]) -> Callable[[], EvictionPolicy]:
        """Make policies of one configuration."""
        return make


class InstalledTransport(Installed, ControllerTransportTests):
    """A controller transport on this machine, at addresses of its first scheme."""

    spec: ClassVar[TransportSpec]

    @pytest.fixture
    def make_transport(
        self, make: Callable[[], ControllerTransport]
    ) -> Callable[[], ControllerTransport]:
        """Make transports of one configuration."""
        return make

    @pytest.fixture
    def any_address(self) -> str:
        """Any free port."""
        return self._address(0)

    @pytest.fixture
    def free_address(self) -> str:
        """A port that nobody listens on."""
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            return self._address(probe.getsockname()[1])

    def _address(self, port: int) -> str:
        if not self.spec.schemes:
            pytest.fail("the spec names no schemes, so that no address selects the transport")
        return f"{self.spec.schemes[0]}://{HOST}:{port}"


_KITS: Mapping[type[PluginSpec[Any]], type[Conformance]] = {
    StorageBackendSpec: InstalledBackend,
    SerdeSpec: InstalledSerde,
    EvictionPolicySpec: InstalledPolicy,
    TransportSpec: InstalledTransport,
}


def kit_of(kind: str, name: str, options: Mapping[str, Any]) -> type[Conformance]:
    """The kit of something that a plugin offers, ready for pytest.

    Args:
        kind: Of its spec.
        name: Of its spec.
        options: Its section of the configuration.
    """
    registry = PluginRegistry.discover()
    spec = next(
        spec
        for record in registry.records
        for spec in record.specs
        if (spec.kind, spec.name) == (kind, name)
    )
    declared = {"spec": spec, "options": options}
    if isinstance(spec, StorageBackendSpec):
        declared["capabilities"] = spec.capabilities
    if isinstance(spec, SerdeSpec):
        declared["authenticates"] = spec.authenticates
    return type(f"Test_{name}", (_KITS[type(spec)],), declared)
