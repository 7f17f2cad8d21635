"""Files, environment and overrides lie over each other; every mistake is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lmcache_core.config import EngineConfig, TierConfig, load_engine_config
from lmcache_core.errors import ConfigError

GIB = 1 << 30
MIB = 1 << 20

PIN_EXAMPLE = """
chunk_size: 256
local_cpu: True
max_local_cpu_size: 5

enable_controller: True
lmcache_instance_id: "lmcache_default_instance"
controller_url: "localhost:9001"
lmcache_worker_port: 8001
"""


@pytest.fixture
def write(tmp_path: Path):
    def make(text: str) -> Path:
        path = tmp_path / "engine.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return make


def resolve(
    environ: dict[str, str] | None = None, path: Path | None = None, **overrides: Any
) -> EngineConfig:
    named = {key.replace("__", "."): value for key, value in overrides.items()}
    return load_engine_config(environ=environ or {}, path=path, overrides=named).config


def refused(environ: dict[str, str] | None = None, path: Path | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as failure:
        load_engine_config(environ=environ or {}, path=path)
    assert "\n" not in str(failure.value)
    return failure.value


def test_the_defaults_need_no_source() -> None:
    resolved = load_engine_config(environ={})
    assert resolved.config == EngineConfig()
    assert set(resolved.origin.values()) == {"default"}
    assert resolved.notices == ()


def test_the_pin_example(write) -> None:
    resolved = load_engine_config(environ={}, path=write(PIN_EXAMPLE))
    config = resolved.config
    assert config.memory_tier == TierConfig("LocalCPUBackend", 5 * GIB)
    assert config.storage_tiers == ()
    assert config.chunk_size == 256
    assert config.chunk_size_explicit
    assert config.staging_bytes == 5 * GIB // 16
    assert config.enable_controller
    assert config.controller_url == "tcp://localhost:9001"
    assert config.instance_id == "lmcache_default_instance"
    assert len(resolved.notices) == 2
    assert any("lmcache_worker_port is ignored" in notice for notice in resolved.notices)
    assert any("whole instance" in notice for notice in resolved.notices)


def test_the_environment_names_the_file(write) -> None:
    path = write("chunk_size: 64")
    resolved = load_engine_config(environ={"LMCACHE_CONFIG_FILE": str(path)})
    assert resolved.config.chunk_size == 64
    assert resolved.origin["chunk_size"] == f"file {path}"


def test_the_environment_lies_over_the_file_and_overrides_over_both(write) -> None:
    path = write("chunk_size: 64\nmin_retrieve_tokens: 1\nweights_epoch: 7")
    environ = {"LMCACHE_CHUNK_SIZE": "128", "LMCACHE_MIN_RETRIEVE_TOKENS": "2"}
    overrides = {"lmcache.chunk_size": 512, "chunk_size": 3, "other.key": object()}
    resolved = load_engine_config(environ=environ, path=path, overrides=overrides)
    assert resolved.config.chunk_size == 512
    assert resolved.config.min_retrieve_tokens == 2
    assert resolved.config.weights_epoch == 7
    assert resolved.origin["chunk_size"] == "kv_connector_extra_config lmcache.chunk_size"
    assert resolved.origin["min_retrieve_tokens"] == "environment LMCACHE_MIN_RETRIEVE_TOKENS"
    assert resolved.origin["weights_epoch"] == f"file {path}"
    assert resolved.origin["cache_policy"] == "default"


def test_null_and_an_empty_variable_say_nothing(write) -> None:
    config = resolve({"LMCACHE_CACHE_POLICY": " "}, write("chunk_size: null\nremote_serde: NULL"))
    assert config == EngineConfig()
    assert not config.chunk_size_explicit


def test_an_empty_file_is_a_file(write) -> None:
    assert resolve(path=write("# nothing\n")) == EngineConfig()


@pytest.mark.parametrize("word", ["true", "True", "YES", "on", "1", " yes "])
def test_words_for_true(word: str) -> None:
    assert resolve({"LMCACHE_SAVE_DECODE_CACHE": word}).save_decode_cache is True


@pytest.mark.parametrize("word", ["false", "False", "NO", "off", "0"])
def test_words_for_false(word: str) -> None:
    assert resolve({"LMCACHE_SAVE_DECODE_CACHE": word}).save_decode_cache is False


@pytest.mark.parametrize("text", ["yes", "'yes'", "1", "on", "TRUE"])
def test_words_for_true_in_a_file(write, text: str) -> None:
    assert resolve(path=write(f"save_decode_cache: {text}")).save_decode_cache is True


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("chunk_size", "256k", "no whole number"),
        ("chunk_size", "2.5", "no whole number"),
        ("chunk_size", "0", "at least 1"),
        ("chunk_size", "-256", "at least 1"),
        ("max_local_cpu_size", "5GB", "without a unit"),
        ("max_local_cpu_size", "0", "more than 0"),
        ("max_local_cpu_size", "nan", "no number"),
        ("max_local_cpu_size", "inf", "no number"),
        ("max_local_disk_size", "-1", "at least 0"),
        ("local_cpu", "maybe", "write true or false"),
        ("local_cpu", "2", "write true or false"),
        ("pin_max_share", "80", "at most 1"),
        ("promotion_timeout_seconds", "0", "more than 0"),
        ("on_start_failure", "explode", "fail or serve"),
        ("controller_url", "localhost", "host:port"),
        ("serving_url", "localhost:8000", "http://localhost:8000"),
        ("serving_url", "http://:8000", "http://localhost:8000"),
        ("serving_url", "http://h:99999", "http://localhost:8000"),
        ("serving_url", "http://[::1", "http://localhost:8000"),
        ("controller_url", "localhost:xxxx", "host:port"),
        ("controller_url", "localhost:99999", "host:port"),
        ("controller_url", "tcp://localhost:9001/path", "host:port"),
        ("controller_pull_url", ":9001", "host:port"),
        ("storage", "LocalCPUBackend", "JSON list of maps"),
        ("weights_epoch", "one", "no whole number"),
    ],
)
def test_a_wrong_value_is_a_sentence_that_names_key_and_source(
    key: str, value: str, words: str
) -> None:
    variable = f"LMCACHE_{key.upper()}"
    error = refused({variable: value})
    assert error.key == key
    assert error.source == f"environment {variable}"
    for part in (key, words, variable):
        assert part in str(error)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("chunk_size: true", "no whole number"),
        ("chunk_size: [256]", "no whole number"),
        ("local_disk: {a: 1}", "no text"),
        ("max_local_cpu_size: yes", "no number"),
        ("storage: LocalCPUBackend", "JSON list of maps"),
        ("storage: 5", "list of maps"),
        ("storage: [LocalCPUBackend]", "list of maps"),
        ("storage: []", "empty"),
    ],
)
def test_a_wrong_type_in_a_file_is_a_sentence(write, text: str, words: str) -> None:
    path = write(text)
    error = refused(path=path)
    assert error.key == text.split(":", maxsplit=1)[0]
    assert words in str(error)
    assert f"file {path}" in str(error)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("chunk_size: [1", "not readable as YAML"),
        ("- a\n- b", "expected a map"),
        ("just words", "expected a map"),
        ("chunk_size: 1\nchunk_size: 2", "'chunk_size' is there twice, line 2"),
        ("!!python/object/apply:os.getcwd []", "not readable as YAML"),
        ("chunk_size: \x07", "not readable as YAML"),
    ],
)
def test_an_unreadable_file_is_a_sentence(write, text: str, words: str) -> None:
    path = write(text)
    assert words in str(refused(path=path))
    assert str(path) in str(refused(path=path))


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    error = refused({"LMCACHE_CONFIG_FILE": str(missing)})
    assert f"there is no configuration file {missing}" in str(error)
    assert "LMCACHE_CONFIG_FILE" in str(error)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None])
def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "odd.yaml"
    path.mkdir() if content is None else path.write_bytes(content)
    assert f"the configuration file {path} cannot be read" in str(refused(path=path))


def test_an_unknown_key_suggests_the_nearest(write) -> None:
    error = refused(path=write("chunk_sise: 256"))
    assert "unknown key 'chunk_sise'; did you mean 'chunk_size'?" in str(error)
    assert error.key == "chunk_sise"


def test_an_unknown_override_is_an_error_too() -> None:
    with pytest.raises(ConfigError, match=r"kv_connector_extra_config lmcache\.chunk_sise"):
        load_engine_config(environ={}, overrides={"lmcache.chunk_sise": 3})


def test_an_unknown_variable_is_a_notice() -> None:
    resolved = load_engine_config(environ={"LMCACHE_CHUNKSIZE": "3", "LMCACHE_QQQ": "1"})
    assert resolved.config == EngineConfig()
    near, far = resolved.notices
    assert near.startswith("the environment variable LMCACHE_CHUNKSIZE is no configuration key")
    assert near.endswith("; did you mean LMCACHE_CHUNK_SIZE?")
    assert far == "the environment variable LMCACHE_QQQ is no configuration key"


def test_variables_of_others_are_left_alone() -> None:
    environ = {
        "LMCACHE_CONTROLLER_PORT": "9000",
        "LMCACHE_CONTROLLER_TOKEN": "secret",
        "LMCACHE_PLUGINS_BLOCKED": "x",
        "LMCACHE_PLUGINS_STRICT": "1",
        "LMCACHE_TRACE_PLUGINS": "1",
        "HOME": "/",
    }
    assert load_engine_config(environ=environ).notices == ()


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({"enable_controller": True}, "tcp://localhost:9001"),
        ({"controller_url": "h:1"}, "tcp://h:1"),
        ({"controller_url": "tcp://h:1"}, "tcp://h:1"),
        ({"controller_url": "nats://h:1/"}, "nats://h:1"),
        ({"controller_url": "[::1]:9001"}, "tcp://[::1]:9001"),
        ({"controller_pull_url": "h:2"}, "tcp://h:2"),
        ({"controller_pull_url": "h:2", "controller_url": "h:1"}, "tcp://h:1"),
        ({}, None),
    ],
)
def test_the_address_of_the_controller(given: dict[str, Any], url: str | None) -> None:
    overrides = {f"lmcache.{key}": value for key, value in given.items()}
    assert load_engine_config(environ={}, overrides=overrides).config.controller_url == url


def test_the_address_says_which_key_it_came_from() -> None:
    resolved = load_engine_config(environ={"LMCACHE_CONTROLLER_PULL_URL": "h:2"})
    assert resolved.origin["controller_url"] == "environment LMCACHE_CONTROLLER_PULL_URL"


def test_units_are_those_of_the_code() -> None:
    config = resolve(
        {
            "LMCACHE_STAGING_SIZE": "0.5",
            "LMCACHE_PIN_OWNER_QUOTA": "2",
            "LMCACHE_PIN_MAX_SHARE": "0.25",
            "LMCACHE_LMCACHE_WORKER_HEARTBEAT_TIME": "1",
            "LMCACHE_PROMOTION_TIMEOUT_SECONDS": "3",
            "LMCACHE_STORAGE_TIMEOUT_SECONDS": "4",
            "LMCACHE_JOB_TIMEOUT_SECONDS": "5",
            "LMCACHE_SERVING_URL": "http://localhost:8000",
            "LMCACHE_LMCACHE_INSTANCE_ID": "7",
            "LMCACHE_CACHE_POLICY": "mru",
            "LMCACHE_ON_START_FAILURE": "FAIL",
        }
    )
    assert config.staging_bytes == GIB // 2
    assert config.pin_owner_quota_bytes == 2 * GIB
    assert config.pin_share == 0.25
    assert config.heartbeat_seconds == 1.0
    assert (config.promotion_timeout_seconds, config.storage_timeout_seconds) == (3.0, 4.0)
    assert config.job_timeout_seconds == 5.0
    assert config.serving_url == "http://localhost:8000"
    assert config.instance_id == "7"
    assert config.cache_policy == "mru"
    assert config.on_start_failure == "fail"


def test_staging_of_a_small_tier_is_no_smaller_than_64_mib() -> None:
    assert resolve({"LMCACHE_MAX_LOCAL_CPU_SIZE": "0.25"}).staging_bytes == 64 * MIB


REQUEST_PINS = {
    "request_pin_owner": "requests",
    "request_pin_quota": 0.5,
    "request_pin_max_ttl_seconds": 600,
    "enable_controller": True,
}


def test_requests_may_pin_within_an_owner_a_quota_and_a_longest_time() -> None:
    overrides = {f"lmcache.{key}": value for key, value in REQUEST_PINS.items()}
    config = load_engine_config(environ={}, overrides=overrides).config
    assert config.request_pin_owner == "requests"
    assert config.request_pin_quota_bytes == GIB // 2
    assert config.request_pin_max_ttl_seconds == 600


@pytest.mark.parametrize("missing", REQUEST_PINS)
def test_pins_of_requests_need_all_of_their_bounds_and_a_controller(missing: str) -> None:
    overrides = {f"lmcache.{key}": value for key, value in REQUEST_PINS.items() if key != missing}
    with pytest.raises(ConfigError, match=missing):
        load_engine_config(environ={}, overrides=overrides)
