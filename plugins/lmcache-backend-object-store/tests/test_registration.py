"""What the distribution says of itself, and what it takes for a configuration."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import yaml

from lmcache_backend_object_store.config import ObjectStoreConfig
from lmcache_core.api import Capability, StorageBackendSpec
from lmcache_core.config import load_engine_config, plugin_section
from lmcache_core.errors import ConfigError, UnknownNameError
from lmcache_core.plugins import PluginRegistry

NAME = "object-store"
ROOT = Path(__file__).parents[3]


def test_the_registry_finds_the_backend():
    spec = PluginRegistry.discover().backend(NAME)
    assert isinstance(spec, StorageBackendSpec)
    assert spec.capabilities == (
        Capability.DURABLE | Capability.SHARED | Capability.SCAN | Capability.REPLACE
    )
    assert spec.config is ObjectStoreConfig


def test_without_the_plugin_its_name_is_answered_with_the_command_that_brings_it():
    with pytest.raises(UnknownNameError, match=r"`pip install lmcache-backend-object-store`"):
        PluginRegistry([]).backend(NAME)


def test_finding_it_imports_nothing_of_it():
    program = (
        "import sys, lmcache_backend_object_store.plugin\n"
        "assert 'obstore' not in sys.modules\n"
        "assert 'lmcache_backend_object_store.backend' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("url", ["s3://bucket/some/prefix", "gs://bucket", "az://container/kv"])
def test_the_flat_key_names_this_backend_and_its_section(url):
    config = load_engine_config(environ={}, overrides={"lmcache.remote_url": url}).config
    (tier,) = config.storage_tiers
    assert tier.backend == NAME
    assert plugin_section(ObjectStoreConfig, tier.options, NAME) == ObjectStoreConfig(url=url)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "url"),
        ({"url": "ftp://host/x"}, r"scheme 'ftp'; it takes s3://, gs://, az://, file://"),
        ({"url": "bucket/x"}, "scheme ''"),
        ({"url": "s3:///x"}, "names no bucket"),
        ({"url": "s3://key:secret@bucket/x"}, "more than a bucket and a prefix"),
        ({"url": "s3://bucket/x?region=a"}, "more than a bucket and a prefix"),
        ({"url": "file://host/x"}, "names the host 'host'"),
        ({"url": "file:///"}, "names no folder"),
        ({"url": "file:///x", "endpoint": "https://y"}, "a folder has no endpoint"),
        ({"url": "file:///x", "options": {"a": "b"}}, "a folder has no endpoint"),
        ({"url": "gs://bucket", "region": "x"}, "region is for s3://"),
        ({"url": "s3://bucket", "endpoint": "http://x"}, "set allow_http: true"),
        ({"url": "s3://bucket", "options": {"secret_access_key": "x"}}, "which is a secret"),
        ({"url": "s3://bucket", "options": {"AWS_SESSION_TOKEN": "x"}}, "which is a secret"),
        ({"url": "az://c", "options": {"azure_storage_account_key": "x"}}, "which is a secret"),
        ({"url": "s3://bucket", "part_mib": 4}, "part_mib"),
        ({"url": "s3://bucket", "requests": 0}, "requests"),
        ({"url": "s3://bucket", "prefix": "x"}, "no key 'prefix'"),
    ],
)
def test_a_wrong_section_is_an_error_that_says_what_to_do(options, message):
    with pytest.raises(ConfigError, match=message) as failure:
        plugin_section(ObjectStoreConfig, options, NAME)
    assert "secret@" not in str(failure.value)


def test_every_key_is_described_here_and_in_the_readme():
    schema = msgspec.json.schema(ObjectStoreConfig)["$defs"]["ObjectStoreConfig"]["properties"]
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    for name, key in schema.items():
        assert key["description"]
        assert f"| `{name}` |" in readme


def test_the_tiers_that_are_shown_load(tmp_path):
    text = (ROOT / "docs" / "how-to" / "object-store.md").read_text()
    shown = [part.partition("```")[0] for part in text.split("```yaml\n")[1:]]
    assert len(shown) >= 5
    for number, block in enumerate(shown):
        path = tmp_path / f"shown{number}.yaml"
        path.write_text(block)
        (*_, tier) = load_engine_config(environ={}, path=path).config.tiers
        assert tier.backend == NAME, yaml.safe_load(block)
        plugin_section(ObjectStoreConfig, tier.options, NAME)
