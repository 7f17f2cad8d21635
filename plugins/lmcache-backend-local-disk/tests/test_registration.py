"""What the distribution says of itself."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from lmcache_backend_local_disk.config import LocalDiskConfig
from lmcache_core.api import Capability, StorageBackendSpec
from lmcache_core.config import load_engine_config, plugin_section
from lmcache_core.errors import ConfigError, UnknownNameError
from lmcache_core.plugins import PluginRegistry

NAME = "LocalDiskBackend"


def test_the_registry_finds_the_backend():
    spec = PluginRegistry.discover().backend(NAME)
    assert isinstance(spec, StorageBackendSpec)
    assert spec.capabilities == (
        Capability.DURABLE
        | Capability.SYNC
        | Capability.SCAN
        | Capability.USAGE
        | Capability.REPLACE
    )
    assert spec.config is LocalDiskConfig


def test_without_the_plugin_its_name_is_answered_with_the_command_that_brings_it():
    registry = PluginRegistry([])
    with pytest.raises(UnknownNameError, match=r"`pip install lmcache-backend-local-disk`"):
        registry.backend(NAME)


def test_finding_it_imports_nothing_of_it():
    program = (
        "import sys, lmcache_backend_local_disk.plugin\n"
        "assert 'lmcache_backend_local_disk.backend' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_flat_keys_name_this_backend_and_its_section():
    overrides = {"lmcache.local_disk": "file:///var/kv", "lmcache.max_local_disk_size": 0.5}
    config = load_engine_config(environ={}, overrides=overrides).config
    (tier,) = config.storage_tiers
    assert (tier.backend, tier.capacity_bytes) == (NAME, 1 << 29)
    section = plugin_section(LocalDiskConfig, tier.options, NAME)
    assert section == LocalDiskConfig(path="/var/kv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "path"),
        ({"path": ""}, "path"),
        ({"path": []}, "path"),
        ({"path": ["/x", ""]}, "path"),
        ({"path": "/x", "durability": "sometimes"}, "durability"),
        ({"path": "/x", "sync_interval": 0}, "sync_interval"),
        ({"path": "/x", "quarantine_size": -1}, "quarantine_size"),
        ({"path": "/x", "max_sise": 1}, "max_sise"),
    ],
)
def test_a_wrong_section_is_an_error_that_names_the_key(options, message):
    with pytest.raises(ConfigError, match=message):
        plugin_section(LocalDiskConfig, options, NAME)


def test_every_key_is_described():
    schema = msgspec.json.schema(LocalDiskConfig)["$defs"]["LocalDiskConfig"]["properties"]
    assert all(key["description"] for key in schema.values())
