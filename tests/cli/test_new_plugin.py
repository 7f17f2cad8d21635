"""``lmcache plugins new`` writes what can be read, checked and kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lmcache_core.cli.main import main
from lmcache_core.cli.plugins.distribution import KINDS, LONGEST_NAME

SHORT, LONG = "x", "much-longer-than-names-mostly-"[: LONGEST_NAME - 1] + "s"

TAKEN = """
from lmcache_core import hookimpl
from lmcache_core.api import StorageBackendSpec

LMCACHE_PLUGIN_API = (0, 1)

@hookimpl
def lmcache_register_storage_backends():
    return [StorageBackendSpec(name="LockerBackend", summary="steel", load=dict)]
"""


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["plugins", "new", *map(str, arguments)])


def program(*command: str, cwd: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "MYPYPATH": "src"},
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_clean(here: Path, kind: str) -> None:
    for number, name in enumerate((SHORT, "shelf", LONG)):
        assert run(kind, name, "--directory", f"plugin-{number}").exit_code == 0
    program("ruff", "check", "--no-cache", ".", cwd=here)
    program("ruff", "format", "--check", "--no-cache", ".", cwd=here)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_strictly_typed(here: Path, kind: str) -> None:
    pytest.importorskip("mypy")
    assert run(kind, "shelf", "--directory", "plugin").exit_code == 0
    cache = Path(__file__).parents[2] / ".mypy_cache" / "written"
    program("mypy", "--strict", f"--cache-dir={cache}", "src", "tests", cwd=here / "plugin")


def test_the_names_are_made_from_one(here: Path) -> None:
    result = run("backend", "cold-store")
    assert result.exit_code == 0
    folder = here / "lmcache-backend-cold-store"
    assert (
        'cold-store = "lmcache_backend_cold_store.plugin"'
        in (folder / "pyproject.toml").read_text()
    )
    backend = folder / "src" / "lmcache_backend_cold_store" / "backend.py"
    assert "class ColdStoreBackend(StorageBackend):" in backend.read_text()
    for step in (
        "pip install -e 'lmcache-backend-cold-store[test]'",
        "lmcache plugins describe ColdStoreBackend",
        "pytest lmcache-backend-cold-store",
    ):
        assert step in result.stdout


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Shelf", "small letters"),
        ("1shelf", "a letter first"),
        ("cold_store", "single hyphens"),
        ("cold--store", "single hyphens"),
        ("../shelf", "small letters"),
        ("", "small letters"),
        ("shelf-", "small letters"),
        ("lmcache-backend-shelf", "give what comes behind"),
        ("s" * (LONGEST_NAME + 1), f"it may have {LONGEST_NAME}"),
    ],
)
def test_a_name_that_cannot_be_is_refused_in_words(here: Path, name: str, words: str) -> None:
    result = run("backend", name)
    assert result.exit_code == 2
    assert words in result.stderr
    assert list(here.iterdir()) == []


def test_a_folder_that_is_there_is_left_alone(here: Path) -> None:
    kept = here / "lmcache-backend-shelf" / "notes.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    result = run("backend", "shelf")
    assert result.exit_code == 2
    assert "is there already" in result.stderr
    assert "--directory" in result.stderr
    assert list(kept.parent.iterdir()) == [kept]


def test_a_folder_that_cannot_be_made_is_a_sentence(here: Path) -> None:
    (here / "file").write_text("")
    result = run("backend", "shelf", "--directory", here / "file" / "below")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert "cannot be written" in result.stderr


@pytest.mark.parametrize("name", ["shelf", "locker"])
def test_a_name_that_is_taken_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """By the entry point's name or by that of what it offers."""
    monkeypatch.syspath_prepend(str(here / "site"))
    (here / "site").mkdir()
    (here / "site" / "lmcache_test_taken.py").write_text(TAKEN)
    info = here / "site" / "taken_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: taken-test\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lmcache_core]\nshelf = lmcache_test_taken\n")
    result = run("backend", name, "--directory", "mine")
    assert result.exit_code == 2
    assert "taken-test, which is installed here, has a plugin 'shelf'" in result.stderr
    assert not (here / "mine").exists()


@pytest.mark.parametrize(("kind", "name"), [("backend", "redis"), ("serde", "zstd")])
def test_nothing_is_written_that_would_take_the_place_of_ours(
    here: Path, kind: str, name: str
) -> None:
    result = run(kind, name, "--directory", "mine")
    assert result.exit_code == 2
    assert f"-{name} is there already" in result.stderr
    assert not (here / "mine").exists()


def test_an_unknown_kind_is_answered_with_the_known_ones(here: Path) -> None:
    result = run("connector", "shelf")
    assert result.exit_code == 2
    for kind in KINDS:
        assert kind in result.stderr
