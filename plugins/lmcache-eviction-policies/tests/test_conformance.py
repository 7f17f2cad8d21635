"""The kit of eviction policies, against each of them."""

from __future__ import annotations

import pytest

from lmcache_core.testing import EvictionPolicyTests


class TestPolicies(EvictionPolicyTests):
    @pytest.fixture
    def make_policy(self, pair):
        make, _ = pair
        return make
