"""Loaded by pytest wherever the core is installed, so it imports pytest only.

It makes the assertions of the kit show what they compared.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    "lmcache_core.testing.eviction_checks",
    "lmcache_core.testing.machine",
    "lmcache_core.testing.serde_checks",
    "lmcache_core.testing.storage_capabilities",
    "lmcache_core.testing.storage_checks",
    "lmcache_core.testing.transport_checks",
)
