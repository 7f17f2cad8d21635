"""Tiers come from ``storage`` or from the flat keys, never from both."""

from __future__ import annotations

from typing import Any

import pytest

from lmcache_core.config import Resolved, SerdeConfig, TierConfig, TierRules, load_engine_config
from lmcache_core.errors import ConfigError

GIB = 1 << 30
A = {"backend": "A", "max_size": 1}


def resolve(**keys: Any) -> Resolved:
    overrides = {f"lmcache.{key}": value for key, value in keys.items()}
    return load_engine_config(environ={}, overrides=overrides)


def refused(**keys: Any) -> str:
    with pytest.raises(ConfigError) as failure:
        resolve(**keys)
    return str(failure.value)


def test_storage_lists_the_tiers_from_the_top() -> None:
    config = resolve(
        storage=[
            {"backend": "LocalCPUBackend", "max_size": 2, "hugepages": True},
            {"backend": "LocalDiskBackend", "max_size": 0.5, "path": "/var/kv"},
            {"backend": "redis", "url": "redis://h", "nested": {"a": [1]}},
        ]
    ).config
    assert config.tiers == (
        TierConfig("LocalCPUBackend", 2 * GIB, {"hugepages": True}),
        TierConfig("LocalDiskBackend", GIB // 2, {"path": "/var/kv"}),
        TierConfig("redis", None, {"url": "redis://h", "nested": {"a": [1]}}),
    )
    assert config.memory_tier is config.tiers[0]
    assert config.storage_tiers == config.tiers[1:]


@pytest.mark.parametrize(
    ("serde", "chain"),
    [
        (None, ()),
        ("zstd", (SerdeConfig("zstd"),)),
        ({"name": "zstd", "level": 3}, (SerdeConfig("zstd", {"level": 3}),)),
        (
            ["zstd", {"name": "aesgcm", "key_file": "/k"}],
            (SerdeConfig("zstd"), SerdeConfig("aesgcm", {"key_file": "/k"})),
        ),
        ([], ()),
    ],
)
def test_a_storage_tier_has_a_chain_of_serdes(serde: object, chain: tuple[SerdeConfig]) -> None:
    tiers = resolve(
        storage=[
            {"backend": "LocalCPUBackend", "max_size": 1},
            {"backend": "redis", "url": "redis://h", "serde": serde},
        ]
    ).config.tiers
    assert tiers[1] == TierConfig("redis", None, {"url": "redis://h"}, serdes=chain)


@pytest.mark.parametrize(
    ("keys", "rules"),
    [
        ({}, TierRules()),
        ({"write": "back"}, TierRules(write="back", promote=False)),
        ({"write": "Back", "promote": "yes"}, TierRules(write="back", promote=True)),
        ({"promote": False, "admit": None}, TierRules(promote=False)),
        ({"admit": {"min_tokens": "256", "min_reuse": 2}}, TierRules(min_tokens=256, min_reuse=2)),
    ],
)
def test_a_storage_tier_has_rules(keys: dict[str, Any], rules: TierRules) -> None:
    tiers = resolve(
        storage=[
            {"backend": "LocalCPUBackend", "max_size": 1},
            {"backend": "redis", "url": "redis://h", **keys},
        ]
    ).config.tiers
    assert tiers[1] == TierConfig("redis", None, {"url": "redis://h"}, rules=rules)


@pytest.mark.parametrize(("name", "chain"), [("naive", ()), ("zstd", (SerdeConfig("zstd"),))])
def test_a_remote_store_has_the_serde_that_is_named(name: str, chain: tuple[SerdeConfig]) -> None:
    config = resolve(remote_url="redis://h", remote_serde=name).config
    assert config.tiers[1] == TierConfig("redis", None, {"url": "redis://h"}, serdes=chain)


@pytest.mark.parametrize("name", ["cachegen", "kivi"])
def test_a_serde_that_changes_what_it_encodes_is_a_notice(name: str) -> None:
    resolved = resolve(remote_url="redis://h", remote_serde=name)
    assert resolved.config.tiers[1].serdes == ()
    assert any(f"remote_serde: {name} is ignored" in notice for notice in resolved.notices)


def test_storage_from_the_environment_is_json() -> None:
    text = '[{"backend": "LocalCPUBackend", "max_size": "1"}]'
    config = load_engine_config(environ={"LMCACHE_STORAGE": text}).config
    assert config.tiers == (TierConfig("LocalCPUBackend", GIB),)


def test_the_flat_keys_make_the_same_tiers() -> None:
    config = resolve(
        local_cpu=True,
        max_local_cpu_size=2,
        local_cpu_use_hugepages=True,
        local_disk="file:///var/kv",
        max_local_disk_size=0.5,
        remote_url="redis://h:6379",
    ).config
    assert config.tiers == (
        TierConfig("LocalCPUBackend", 2 * GIB, {"hugepages": True}),
        TierConfig("LocalDiskBackend", GIB // 2, {"path": "/var/kv"}),
        TierConfig("redis", None, {"url": "redis://h:6379"}),
    )


@pytest.mark.parametrize(
    ("url", "backend"),
    [("rediss://h", "redis"), ("s3://bucket", "object-store"), ("gs://bucket", "object-store")],
)
def test_the_scheme_of_a_remote_address_names_the_backend(url: str, backend: str) -> None:
    assert resolve(remote_url=url).config.tiers[1] == TierConfig(backend, None, {"url": url})


@pytest.mark.parametrize("url", ["lm://localhost:65432", "localhost:1", "mooncakestore://h:1"])
def test_a_remote_address_that_nobody_serves(url: str) -> None:
    message = refused(remote_url=url)
    assert repr(url) in message
    assert "redis://" in message


def test_a_remote_address_is_refused_without_its_password() -> None:
    assert "'lm://h:1'" in refused(remote_url="lm://me:hush@h:1")
    assert "hush" not in refused(remote_url="lm://me:hush@h:1")


@pytest.mark.parametrize(
    "flat",
    [
        {"local_cpu": False},
        {"max_local_cpu_size": 5},
        {"local_disk": "/x"},
        {"remote_url": "s3://b"},
        {"remote_serde": "naive"},
    ],
)
def test_saying_both_is_an_error_that_says_so(flat: dict[str, Any]) -> None:
    message = refused(storage=[{"backend": "LocalCPUBackend", "max_size": 1}], **flat)
    (key,) = flat
    assert f"storage and {key}" in message
    assert "both describe the tiers" in message


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ([{"backend": "LocalCPUBackend"}], "has no max_size"),
        ([{"max_size": 1}], "does not say which backend"),
        ([{"backend": "", "max_size": 1}], "storage[0].backend"),
        ([{"backend": "A", "max_size": "5 GB"}], "storage[0].max_size is '5 GB'"),
        ([{"backend": "A", "max_size": 1}, {"backend": "B", "max_size": 0}], "storage[1].max_size"),
        ([{"backend": "A", "max_size": 1}, {"backend": "A"}], "names 'A' twice"),
        ([A, {"backend": "any"}], "storage[1].backend is 'any', which no tier may be called"),
        ([{"backend": "A", "max_size": 1, "serde": "zstd"}], "is the memory tier; serde"),
        ([{"backend": "A", "max_size": 1}, {"backend": "B", "serde": 7}], "storage[1].serde is 7"),
        ([{"backend": "A", "max_size": 1, "admit": {}}], "is the memory tier; admit is for"),
        ([A, {"backend": "B", "write": "sideways"}], "storage[1].write is 'sideways'; write back"),
        ([A, {"backend": "B", "promote": "maybe"}], "storage[1].promote is 'maybe'"),
        ([A, {"backend": "B", "admit": 2}], "storage[1].admit is 2; write a map of min_tokens"),
        ([A, {"backend": "B", "admit": {"min_reuse": 0}}], "storage[1].admit.min_reuse is 0"),
        ([A, {"backend": "B", "admit": {"min_use": 1}}], "did you mean 'min_reuse'?"),
        (
            [{"backend": "A", "max_size": 1}, {"backend": "B", "serde": ["z", {"level": 1}]}],
            "storage[1].serde[1] is {'level': 1}",
        ),
    ],
)
def test_a_wrong_list_is_a_sentence(storage: list[dict[str, Any]], words: str) -> None:
    assert words in refused(storage=storage)


def test_a_disk_needs_a_size() -> None:
    assert "give max_local_disk_size" in refused(local_disk="/x")


def test_a_disk_tier_may_have_several_folders() -> None:
    config = resolve(local_disk="file:///a, /b,", max_local_disk_size=1).config
    assert config.tiers[1].options == {"path": ["/a", "/b"]}


def test_a_size_without_a_disk_is_a_notice() -> None:
    resolved = resolve(max_local_disk_size=1)
    assert len(resolved.config.tiers) == 1
    assert any("local_disk names no folder" in notice for notice in resolved.notices)


def test_without_local_cpu_there_is_a_memory_tier_all_the_same() -> None:
    resolved = resolve(local_cpu=False, max_local_cpu_size=2)
    assert resolved.config.tiers == (TierConfig("LocalCPUBackend", 2 * GIB),)
    assert any("local_cpu: false is ignored" in notice for notice in resolved.notices)


def test_the_origin_of_the_tiers_is_that_of_the_keys_that_made_them() -> None:
    resolved = load_engine_config(
        environ={"LMCACHE_MAX_LOCAL_CPU_SIZE": "1"}, overrides={"lmcache.local_disk": None}
    )
    assert resolved.origin["storage"] == "environment LMCACHE_MAX_LOCAL_CPU_SIZE"
