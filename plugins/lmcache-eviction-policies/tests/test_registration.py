"""The distribution is found by its entry point and loads nothing early."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lmcache_core.api import EvictionPolicy
from lmcache_core.plugins import PluginRegistry, PluginStatus

NAMES = {"LRU", "MRU", "FIFO", "LFU", "S3-FIFO"}


@pytest.fixture(scope="module")
def registry() -> PluginRegistry:
    return PluginRegistry.discover({})


def test_it_is_installed_and_loaded(registry: PluginRegistry) -> None:
    record = next(record for record in registry.records if record.name == "policies")
    assert record.status is PluginStatus.LOADED, record.reason
    assert record.distribution == "lmcache-eviction-policies"
    assert {spec.name for spec in record.specs} == NAMES


@pytest.mark.parametrize("name", [*sorted(NAMES), "lru", "s3-fifo"])
def test_its_names_can_be_selected(registry: PluginRegistry, name: str) -> None:
    spec = registry.eviction_policy(name)
    assert isinstance(spec.load()(spec.config()), EvictionPolicy)


def test_the_hook_imports_no_implementation() -> None:
    source = (
        "import sys, lmcache_eviction_policies.plugin as p;"
        "p.lmcache_register_eviction_policies();"
        "sys.exit(any(f'lmcache_eviction_policies.{name}' in sys.modules"
        " for name in ('line', 'in_line', 'lfu', 's3fifo')))"
    )
    assert subprocess.run([sys.executable, "-c", source], check=False, timeout=60).returncode == 0
