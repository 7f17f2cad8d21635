"""The conformance kit of serdes, and the fixtures its checks need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from lmcache_core.api import KVSpec, Serde
from lmcache_core.api.connector import KVGroup
from lmcache_core.testing.conformance import Conformance
from lmcache_core.testing.serde_checks import MakeSerde, SerdeChecks

COMMON = KVSpec(dtype="bfloat16", layout="LBHNC", groups=(KVGroup(16, 1 << 16),))


class SerdeTests(SerdeChecks, Conformance):
    """Checks that a serde keeps the promises of its contract.

    To run it, subclass it and supply the fixture ``make_serde``::

        class TestMySerde(SerdeTests):
            @pytest.fixture
            def make_serde(self):
                return lambda: MySerde(MyConfig())

    Every serde that the factory makes within a check is configured alike. The
    kit accepts and closes them. Further fixtures are optional: ``kv_spec``,
    and those whose checks skip without them, ``refused_spec`` and
    ``make_unusable_serde``. A serde that does not give back every byte says so
    in ``EXPECTED_FAILURES``.

    Attributes:
        authenticates: Whether bytes that anybody has changed, or that were
            encoded for another key, are always an error.
    """

    @pytest.fixture
    def make_serde(self) -> MakeSerde:
        """Make a serde that has accepted nothing yet."""
        pytest.fail("supply the fixture make_serde: a function that makes a serde")

    @pytest.fixture
    def make_unusable_serde(self) -> MakeSerde:
        """Make a serde that lacks what it is configured with, for example a key file."""
        pytest.skip("there is no fixture make_unusable_serde")

    @pytest.fixture
    def kv_spec(self) -> KVSpec:
        """What the checks' payloads are said to be; the serde has to accept it."""
        return COMMON

    @pytest.fixture
    def refused_spec(self) -> KVSpec:
        """What the serde has to refuse."""
        pytest.skip("there is no fixture refused_spec")

    @pytest.fixture
    def open_serde(self, make_serde: MakeSerde, kv_spec: KVSpec) -> Iterator[Callable[[], Serde]]:
        """Make a serde that has accepted ``kv_spec`` and is closed after the check."""
        with ExitStack() as closing:

            def make() -> Serde:
                serde = make_serde()
                serde.accept(kv_spec)
                closing.callback(serde.close)
                return serde

            yield make

    @pytest.fixture
    def serde(self, open_serde: Callable[[], Serde]) -> Serde:
        """A serde that has accepted ``kv_spec``."""
        return open_serde()
