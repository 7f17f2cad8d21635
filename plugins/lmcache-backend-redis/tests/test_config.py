"""What the section of ``redis`` takes, and how it says what it does not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lmcache_backend_redis.address import Node, parse_address
from lmcache_backend_redis.config import RedisConfig
from lmcache_core.api import StorageBackendSpec
from lmcache_core.config import load_engine_config, plugin_section
from lmcache_core.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "nodes", "database", "encrypted", "cluster"),
    [
        ("redis://host", [("host", 6379)], 0, False, False),
        ("resp://host:1/2", [("host", 1)], 2, False, False),
        ("valkey://[::1]:7", [("::1", 7)], 0, False, False),
        ("rediss://host", [("host", 6379)], 0, True, False),
        ("valkeys://user:p%40ss@host:7/0", [("host", 7)], 0, True, False),
        ("redis-cluster://a:1,b:2,[::1]:3", [("a", 1), ("b", 2), ("::1", 3)], 0, False, True),
        ("rediss-cluster://:secret@a", [("a", 6379)], 0, True, True),
    ],
)
def test_addresses(
    url: str, nodes: list[tuple[str, int]], database: int, encrypted: bool, cluster: bool
) -> None:
    address = parse_address(url)
    assert address.nodes == tuple(Node(*node) for node in nodes)
    assert (address.database, address.encrypted, address.cluster) == (
        database,
        encrypted,
        cluster,
    )


def test_credentials_in_an_address() -> None:
    assert parse_address("redis://user:p%40s%2Fs:w@host")[-2:] == ("user", "p@s/s:w")
    assert parse_address("redis://:only@host")[-2:] == (None, "only")
    assert parse_address("redis://host")[-2:] == (None, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs the key 'url'"),
        ({"url": "localhost:6379"}, "it takes redis://"),
        ({"url": "http://secret@host"}, "begins with 'http'; it takes redis://"),
        ({"url": "redis://"}, "names no host"),
        ({"url": "redis://host:port"}, "'host:port' in the url is no host:port"),
        ({"url": "redis://a,b"}, "only a cluster has several"),
        ({"url": "redis://host/cache"}, "a database's number"),
        ({"url": "redis://host?socket_timeout=1"}, "keys of their own"),
        ({"url": "redis-cluster://host/1"}, "a cluster has no database 1"),
        ({"url": "redis://:a@host", "password": "b"}, "in url and in password"),
        ({"url": "redis://h", "password": "b", "password_env": "C"}, "password and in password_e"),
        ({"url": "redis://u:p@host", "username": "v"}, "in url and in username"),
        ({"url": "redis://host", "tls_ca": "ca.pem"}, "write rediss://"),
        ({"url": "rediss://host", "tls_cert": "c.pem"}, "tls_cert and tls_key go together"),
        ({"url": "redis://host", "ttl_seconds": 0}, "ttl_seconds"),
        ({"url": "redis://host", "connections": 0}, "connections"),
        ({"url": "redis://host", "key_prefix": ""}, "key_prefix"),
        ({"url": "redis://host", "tls_key_file": "x"}, "no key 'tls_key_file'"),
    ],
)
def test_what_is_wrong_is_said_in_words(
    spec: StorageBackendSpec, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as failure:
        plugin_section(spec.config, options, "storage backend redis")
    assert message in str(failure.value)
    assert "secret" not in str(failure.value)


def test_a_configuration_that_is_printed_shows_no_password() -> None:
    config = RedisConfig(url="redis://user:first@host", key_prefix="mine")
    assert "first" not in f"{config} {config!r}"
    assert "second" not in repr(RedisConfig(url="redis://host", password="second"))


@pytest.mark.parametrize("scheme", ["redis", "rediss", "valkey", "resp"])
def test_the_flat_key_names_this_backend(spec: StorageBackendSpec, scheme: str) -> None:
    resolved = load_engine_config(environ={"LMCACHE_REMOTE_URL": f"{scheme}://host:6379"})
    tier = resolved.config.storage_tiers[0]
    assert tier.backend == spec.name
    section = plugin_section(spec.config, tier.options, "redis")
    assert section == RedisConfig(url=f"{scheme}://host:6379")


@pytest.mark.parametrize(
    "page", ["docs/how-to/redis.md", "plugins/lmcache-backend-redis/README.md"]
)
def test_the_configurations_that_are_shown_are_right(
    spec: StorageBackendSpec, tmp_path: Path, page: str
) -> None:
    text = (Path(__file__).parents[3] / page).read_text(encoding="utf-8")
    shown = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert shown
    for block in shown:
        file = tmp_path / "shown.yaml"
        file.write_text(block)
        tier = load_engine_config(environ={}, path=file).config.storage_tiers[-1]
        assert tier.backend == spec.name
        plugin_section(spec.config, tier.options, "redis")


def test_every_key_is_in_the_readme() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`\w+`.*?) \|", readme, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(
        RedisConfig.__struct_fields__
    )
