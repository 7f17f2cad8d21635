"""The conformance kit of storage backends, and the fixtures its checks need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest

from lmcache_core.api import StorageBackend
from lmcache_core.testing.calls import LARGE, MakeBackend, OpenBackends
from lmcache_core.testing.conformance import Conformance
from lmcache_core.testing.machine import run_machine
from lmcache_core.testing.storage_capabilities import StorageCapabilityChecks
from lmcache_core.testing.storage_checks import Peek, Plant, StorageChecks

MakeBoundedBackend = Callable[[int], StorageBackend]


class StorageBackendTests(StorageChecks, StorageCapabilityChecks, Conformance):
    """Checks that a storage backend keeps the promises of its contract.

    To run it, subclass it, take ``capabilities`` from your spec, and supply
    the fixture ``make_backend``::

        class TestMyBackend(StorageBackendTests):
            capabilities = SPEC.capabilities

            @pytest.fixture
            def make_backend(self, tmp_path):
                return lambda: MyBackend(MyConfig(path=tmp_path), CONTEXT)

    Each check begins with an empty store; within a check every backend that
    the factory makes is over the same store, if the store outlives a backend
    at all. The kit opens and closes them. Further fixtures are optional, and
    the checks that need one skip without it: ``make_bounded_backend``,
    ``make_unusable_backend``, ``peek`` and ``plant``.

    Attributes:
        MACHINE_SECONDS: How long the check of any order of calls looks for a
            fault.
    """

    MACHINE_SECONDS: ClassVar[float] = 2.0

    def test_any_order_of_calls_agrees_with_a_dictionary(self, backends: OpenBackends) -> None:
        run_machine(backends, self.capabilities, self.MACHINE_SECONDS)

    @pytest.fixture
    def make_backend(self) -> MakeBackend:
        """Make a backend that is not open yet."""
        pytest.fail("supply the fixture make_backend: a function that makes a backend")

    @pytest.fixture
    def make_bounded_backend(self) -> MakeBoundedBackend:
        """Make a backend over a new store of so many bytes."""
        pytest.skip("there is no fixture make_bounded_backend")

    @pytest.fixture
    def make_unusable_backend(self) -> MakeBackend:
        """Make a backend whose store cannot be used, for example a read-only folder."""
        pytest.skip("there is no fixture make_unusable_backend")

    @pytest.fixture
    def peek(self) -> Peek:
        """Read a frame of the check's store without the backend; None if it is not there."""
        pytest.skip("there is no fixture peek")

    @pytest.fixture
    def plant(self) -> Plant:
        """Write a frame into the check's store without the backend."""
        pytest.skip("there is no fixture plant")

    @pytest.fixture
    def backends(self, make_backend: MakeBackend) -> Iterator[OpenBackends]:
        """What opens and closes the backends of a check."""
        opened = OpenBackends(make_backend)
        yield opened
        opened.close_all()

    @pytest.fixture
    def backend(self, backends: OpenBackends) -> StorageBackend:
        """An open backend."""
        return backends.open()

    @pytest.fixture
    def bounded(self, make_bounded_backend: MakeBoundedBackend) -> Iterator[StorageBackend]:
        """An open backend over a store of sixteen sample frames of 64 KiB."""
        backend = make_bounded_backend(16 * LARGE)
        backend.open()
        yield backend
        backend.close()
