"""The conformance kit of eviction policies, and the fixtures its checks need."""

from __future__ import annotations

import pytest

from lmcache_core.api import EvictionPolicy
from lmcache_core.testing.conformance import Conformance
from lmcache_core.testing.eviction_checks import EvictionChecks, MakePolicy


class EvictionPolicyTests(EvictionChecks, Conformance):
    """Checks that an eviction policy keeps the promises of its contract.

    Which key goes first is the policy's own affair, and for its own tests. To
    run it, subclass it and supply the fixture ``make_policy``::

        class TestMyPolicy(EvictionPolicyTests):
            @pytest.fixture
            def make_policy(self):
                return lambda: MyPolicy(MyConfig())
    """

    @pytest.fixture
    def make_policy(self) -> MakePolicy:
        """Make a policy that knows no key."""
        pytest.fail("supply the fixture make_policy: a function that makes an eviction policy")

    @pytest.fixture
    def policy(self, make_policy: MakePolicy) -> EvictionPolicy:
        """A policy that knows no key."""
        return make_policy()
