"""What the distribution says of itself."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from lmcache_backend_redis.config import RedisConfig
from lmcache_core.api import Capability, StorageBackendSpec
from lmcache_core.errors import UnknownNameError
from lmcache_core.plugins import PluginRegistry


def test_the_registry_finds_the_backend() -> None:
    spec = PluginRegistry.discover().backend("redis")
    assert isinstance(spec, StorageBackendSpec)
    assert spec.capabilities == (Capability.SHARED | Capability.SELF_EVICTING | Capability.REPLACE)
    assert spec.config is RedisConfig


def test_without_the_plugin_its_name_is_answered_with_the_command_that_brings_it() -> None:
    with pytest.raises(UnknownNameError, match=r"`pip install lmcache-backend-redis`"):
        PluginRegistry([]).backend("redis")


def test_finding_it_imports_nothing_of_it() -> None:
    program = (
        "import sys, lmcache_backend_redis.plugin\n"
        "assert not {'lmcache_backend_redis.backend', 'redis'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_every_key_is_described() -> None:
    schema = msgspec.json.schema(RedisConfig)["$defs"]["RedisConfig"]["properties"]
    assert all(key["description"] for key in schema.values())
