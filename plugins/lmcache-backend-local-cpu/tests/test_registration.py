"""The distribution is found by its entry point and loads nothing early."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lmcache_core.api import MemoryBackendSpec
from lmcache_core.plugins import PluginRegistry, PluginStatus


@pytest.fixture(scope="module")
def registry() -> PluginRegistry:
    return PluginRegistry.discover({})


def test_it_is_installed_and_loaded(registry: PluginRegistry) -> None:
    record = next(record for record in registry.records if record.name == "local-cpu")
    assert record.status is PluginStatus.LOADED, record.reason
    assert record.distribution == "lmcache-backend-local-cpu"
    assert {spec.name for spec in record.specs} == {"LocalCPUBackend"}


def test_its_name_can_be_selected(registry: PluginRegistry) -> None:
    assert isinstance(registry.backend("LocalCPUBackend"), MemoryBackendSpec)


def test_the_hooks_import_no_implementation() -> None:
    source = (
        "import sys, lmcache_backend_local_cpu.plugin as p;"
        "p.lmcache_register_storage_backends();"
        "sys.exit(any(f'lmcache_backend_local_cpu.{name}' in sys.modules"
        " for name in ('backend', 'memfile')))"
    )
    assert subprocess.run([sys.executable, "-c", source], check=False, timeout=60).returncode == 0
