"""Starting the controller: flags, environment, file, and each mistake in one sentence."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from lmcache_core.config.controller import (
    ControllerConfig,
    load_client_config,
    load_controller_config,
)
from lmcache_core.errors import ConfigError
from tests.controller.controller_process import COMMAND, ControllerProcess, clean_environment
from tests.controller.engine_peer import eventually


def run(*flags: str, environ: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={**clean_environment(), **environ},
    )


def assert_one_sentence(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 2, result
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in line


def test_both_names_of_the_command_take_the_same_flags() -> None:
    group = [sys.executable, "-c", "from lmcache_core.cli.controller import controller as c; c()"]
    outputs = [
        subprocess.run(
            [*command, "--help"], capture_output=True, text=True, check=True, timeout=30
        ).stdout.partition("Options:")[2]
        for command in (COMMAND, [*group, "serve"])
    ]
    assert outputs[0] == outputs[1]
    for flag in (
        "--host",
        "--port",
        "--monitor-host",
        "--monitor-port",
        "--monitor-ports",
        "--token-file",
        "--insecure",
        "--ledger",
        "--log-level",
        "--config",
    ):
        assert flag in outputs[0]


def test_a_taken_port_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert_one_sentence(run("--port", port, "--monitor-port", "0"), port, "taken", "--port")
        assert_one_sentence(run("--port", "0", "--monitor-port", port), port, "taken")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--host", "0.0.0.0"], ["--token-file", "--insecure"]),
        (["--monitor-host", "0.0.0.0"], ["--token-file", "--insecure"]),
        (["--host", "192.0.2.1", "--insecure"], ["192.0.2.1"]),
        (["--host", "no-such-host.invalid", "--insecure"], ["no-such-host.invalid"]),
        (["--port", "70000"], ["port", "70000"]),
        (["--token-file", "/no/such/file"], ["/no/such/file"]),
        (["--config", "/no/such/file"], ["/no/such/file"]),
        (["--monitor-ports", "9001"], ["--monitor-ports", "pull"]),
        (["--monitor-ports", '{"reply": 1}'], ["--monitor-ports", "pull"]),
        (["--monitor-ports", '{"pull": "x"}'], ["monitor_port"]),
    ],
)
def test_a_wrong_flag_is_one_sentence(flags: list[str], words: list[str]) -> None:
    assert_one_sentence(run(*flags), *words)


def test_without_a_transport_it_says_what_to_install() -> None:
    result = run("--port", "0", environ={"LMCACHE_PLUGINS_BLOCKED": "zmq"})
    assert_one_sentence(result, "pip install lmcache-transport-zmq")


def test_the_incumbents_ports_are_taken_with_a_notice(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*COMMAND, "--port", "0", "--monitor-ports", f'{{"pull": {port}, "reply": 1}}'],
            stderr=file,
            env=clean_environment(),
        )
        try:
            eventually(lambda: "controller.started" in log.read_text())
        finally:
            process.terminate()
            assert process.wait(10) == 0
    text = log.read_text()
    assert f"engines dial port {port}" in text
    assert f"monitor='tcp://localhost:{port}'" in text


def test_localhost_serves_every_loopback_address(tmp_path: Path) -> None:
    with ControllerProcess(tmp_path / "log", "--host", "localhost") as controller:
        assert controller.client.get("/healthz").status_code == 200


def test_flags_go_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "controller.yaml"
    file.write_text("port: 1\nmonitor_port: 2\ntimeout_seconds: 3\nlog_level: debug\n")
    environ = {"LMCACHE_CONTROLLER_PORT": "10", "LMCACHE_CONTROLLER_MONITOR_PORT": "20"}
    config = load_controller_config(
        file=str(file), environ=environ, flags={"port": 100, "host": None}
    )
    assert config == ControllerConfig(
        port=100, monitor_port=20, timeout_seconds=3.0, log_level="debug"
    )
    by_name = load_controller_config(
        file=None, environ={"LMCACHE_CONTROLLER_CONFIG": str(file)}, flags={}
    )
    assert by_name.port == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot: 1", "'prot'; did you mean 'port'"),
        ("port: x", "port is 'x', which is no whole number; write digits only"),
        ("port: 1.5", "port is 1.5"),
        ("port: true", "port is True"),
        ("port: 65536", "port is 65536; it has to be at most 65535"),
        ("port: 1\nport: 2", "the key 'port' is there twice"),
        ("- a", "expected a map"),
        ("a: [", "not readable as YAML"),
        ("timeout_seconds: 0", "timeout_seconds is 0; it has to be more than 0"),
        ("log_level: loud", "log_level is 'loud'; write debug or error or info or warning"),
        ("host: ''", "host is ''"),
        ("token: short", "token"),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence_that_names_it(
    tmp_path: Path, text: str, words: str
) -> None:
    file = tmp_path / "controller.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_controller_config(file=str(file), environ={}, flags={})
    assert words in str(error.value)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "port:\ntoken: null\n"])
def test_a_file_that_says_nothing_is_the_default(tmp_path: Path, text: str) -> None:
    file = tmp_path / "controller.yaml"
    file.write_text(text)
    config = load_controller_config(file=str(file), environ={}, flags={})
    assert config == ControllerConfig()


def test_a_value_may_be_written_as_an_engines_may() -> None:
    environ = {"LMCACHE_CONTROLLER_INSECURE": "yes", "LMCACHE_CONTROLLER_LOG_LEVEL": "WARNING"}
    config = load_controller_config(file=None, environ=environ, flags={})
    assert config == ControllerConfig(insecure=True, log_level="warning")


@pytest.mark.parametrize("value", ["yes", "", "1.5.2"])
def test_a_mistake_in_the_environment_is_named(value: str) -> None:
    with pytest.raises(ConfigError, match="LMCACHE_CONTROLLER_PORT"):
        load_controller_config(file=None, environ={"LMCACHE_CONTROLLER_PORT": value}, flags={})


def test_a_token_that_will_not_do_is_not_printed() -> None:
    with pytest.raises(ConfigError, match="token") as error:
        load_controller_config(file=None, environ={"LMCACHE_CONTROLLER_TOKEN": "s3cr3t"}, flags={})
    assert "s3cr3t" not in str(error.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_loopback_needs_no_token(host: str) -> None:
    config = load_controller_config(file=None, environ={}, flags={"host": host})
    assert config.host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_anything_else_does(host: str) -> None:
    with pytest.raises(ConfigError, match="--token-file"):
        load_controller_config(file=None, environ={}, flags={"host": host})
    environ = {"LMCACHE_CONTROLLER_TOKEN": "long enough"}
    assert load_controller_config(file=None, environ=environ, flags={"host": host}).token


def test_the_ledger_is_where_it_is_told_to_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def path(**environ: str) -> Path | None:
        return load_controller_config(file=None, environ=environ, flags={}).ledger_path

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert path() == tmp_path / ".local" / "state" / "lmcache" / "pins.sqlite"
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere")
    assert path() == Path("/somewhere/lmcache/pins.sqlite")
    assert path(LMCACHE_CONTROLLER_LEDGER="~/my.sqlite") == tmp_path / "my.sqlite"
    assert path(LMCACHE_CONTROLLER_LEDGER="none") is None
    assert path(LMCACHE_CONTROLLER_LEDGER=":memory:") is None


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:9000"),
        ("0.0.0.0", "http://127.0.0.1:9000"),
        ("::", "http://[::1]:9000"),
        ("node7", "http://node7:9000"),
    ],
)
def test_a_client_finds_the_controller_by_the_controllers_own_keys(host: str, url: str) -> None:
    config = load_client_config(environ={"LMCACHE_CONTROLLER_HOST": host}, flags={})
    assert config.url == url
