"""Each key of LMCache 0.5.6 is in exactly one list, and its published files load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lmcache_core.config import incumbent, load_engine_config
from lmcache_core.config.resolve import KEYS
from lmcache_core.errors import ConfigError

KEYS_0_5_6 = Path(__file__).with_name("lmcache_0_5_6_keys.txt").read_text().split()
"""Names of the keys and aliases of that release, by its own documentation."""

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*/*.yaml"))

LOADED: dict[str, dict[str, Any]] = {
    "pin": {
        "chunk_size": 256,
        "local_cpu": True,
        "max_local_cpu_size": 5,
        "enable_controller": True,
        "lmcache_instance_id": "lmcache_default_instance",
        "controller_url": "localhost:9001",
        "lmcache_worker_port": 8001,
    },
    "clear": {"max_local_cpu_size": 5, "distributed_url": "localhost:8002"},
    "lookup": {"enable_controller": True, "lmcache_worker_url": "localhost:8001"},
    "tags": {"local_device": "cpu", "max_local_cpu_size": 10, "extra_config": {"tag_keys": ["u"]}},
    "decode": {"chunk_size": 256, "local_device": "cpu", "save_decode_cache": True},
    "sglang": {"use_layerwise": True, "max_local_cpu_size": 20, "save_unfull_chunk": False},
    "disk": {
        "local_cpu": False,
        "max_local_cpu_size": 5.0,
        "local_disk": "file:///tmp/kv",
        "max_local_disk_size": 10,
    },
    "resp": {
        "local_cpu": False,
        "max_local_cpu_size": 20.0,
        "remote_url": "resp://localhost:6379",
        "async_loading": False,
        "remote_serde": "naive",
        "blocking_timeout_secs": 120,
        "extra_config": {"resp_num_threads": 8},
    },
    "s3": {"remote_url": "s3://bucket", "save_unfull_chunk": False, "blocking_timeout_secs": 100},
    "features that are off": {
        "enable_p2p": False,
        "enable_pd": False,
        "enable_blending": False,
        "remote_url": None,
        "remote_serde": None,
        "storage_plugins": [],
    },
}
"""What its published examples set, by what they show."""

REFUSED: dict[str, dict[str, Any]] = {
    "enable_blending": {"enable_blending": True, "use_layerwise": True},
    "enable_p2p": {"enable_p2p": True, "p2p_host": "localhost", "p2p_init_ports": 8200},
    "enable_nixl": {"enable_nixl": True, "nixl_role": "receiver", "nixl_backends": ["UCX"]},
    "remote_url": {"remote_url": "lm://localhost:65432", "remote_serde": "cachegen"},
    "storage_plugins": {"storage_plugins": ["mine"]},
    "run_script_api_enabled": {"run_script_api_enabled": True},
    "remote_config_url": {"remote_config_url": "http://host/config"},
}


def load(tmp_path: Path, keys: dict[str, Any]):
    path = tmp_path / "lmcache.yaml"
    path.write_text(yaml.safe_dump(keys))
    return load_engine_config(environ={}, path=path)


def test_every_key_is_in_one_list() -> None:
    lists = (incumbent.HONOURED, set(incumbent.IGNORED), set(incumbent.REFUSED))
    assert {key: sum(key in known for known in lists) for key in KEYS_0_5_6} == dict.fromkeys(
        KEYS_0_5_6, 1
    )
    assert incumbent.HONOURED <= KEYS
    assert not KEYS & {*incumbent.IGNORED, *incumbent.REFUSED}


@pytest.mark.parametrize("example", LOADED)
def test_a_published_file_loads(tmp_path: Path, example: str) -> None:
    assert load(tmp_path, LOADED[example]).config.memory_tier.backend == "LocalCPUBackend"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_our_own_examples_load(path: Path) -> None:
    assert load_engine_config(environ={}, path=path).config.memory_tier.capacity_bytes


@pytest.mark.parametrize("key", REFUSED)
def test_what_cannot_be_done_is_refused_in_words(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=key) as failure:
        load(tmp_path, REFUSED[key])
    assert failure.value.key == key


@pytest.mark.parametrize("key", sorted(incumbent.REFUSED))
def test_a_refused_key_says_what_to_do(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is refused: ") as failure:
        load(tmp_path, {key: "x"})
    assert any(word in str(failure.value) for word in ("leave it out", "name "))


@pytest.mark.parametrize("key", sorted(incumbent.REFUSED))
@pytest.mark.parametrize("off", [None, False, 0, "", "false", "None", [], {}])
def test_a_refused_key_that_asks_for_nothing_is_accepted(
    tmp_path: Path, key: str, off: object
) -> None:
    assert load(tmp_path, {key: off}).notices == ()


@pytest.mark.parametrize("key", sorted(incumbent.IGNORED))
def test_an_ignored_key_is_a_notice_that_names_key_reason_and_source(
    tmp_path: Path, key: str
) -> None:
    (notice,) = load(tmp_path, {key: "x"}).notices
    assert notice.startswith(f"{key} is ignored: {incumbent.IGNORED[key]}")
    assert str(tmp_path) in notice


def test_keys_in_the_environment_are_the_same_keys() -> None:
    with pytest.raises(ConfigError, match="environment LMCACHE_ENABLE_P2P"):
        load_engine_config(environ={"LMCACHE_ENABLE_P2P": "true"})
    assert load_engine_config(environ={"LMCACHE_ENABLE_P2P": "off"}).notices == ()
    (notice,) = load_engine_config(environ={"LMCACHE_LMCACHE_WORKER_PORTS": "1,2"}).notices
    assert "LMCACHE_LMCACHE_WORKER_PORTS" in notice
