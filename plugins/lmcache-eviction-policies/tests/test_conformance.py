"""The promises of the contract, for each order."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lmcache_core.api import EvictionPolicy
from lmcache_core.testing import EvictionPolicyTests
from lmcache_eviction_policies.plugin import lmcache_register_eviction_policies

SPECS = lmcache_register_eviction_policies()


@pytest.mark.parametrize("spec", SPECS, ids=[spec.name for spec in SPECS])
class TestPolicies(EvictionPolicyTests):
    @pytest.fixture
    def make_policy(self, spec) -> Callable[[], EvictionPolicy]:
        return lambda: spec.load()(spec.config())
