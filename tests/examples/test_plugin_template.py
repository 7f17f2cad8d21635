"""The template is what ``lmcache plugins new`` writes, and a stranger can use it.

The stranger's environment has the core, pytest and hypothesis; torch, vLLM,
numpy and the native page mover cannot be imported there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib.metadata import distribution
from pathlib import Path

import pytest

import lmcache_core
from lmcache_core.cli.plugins.distribution import NewDistribution

TEMPLATE = Path(__file__).parents[2] / "examples" / "plugin-template"
NAME = "shelf"
IGNORED = {"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}

BLOCKED = """
import sys

class Blocked:
    names = {"torch", "vllm", "numpy", "lmcache_core.memory._native"}

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in cls.names:
            raise ImportError(f"{name} is not on an author's laptop")

sys.meta_path.insert(0, Blocked)
"""
LMCACHE = "import sys; from lmcache_core.cli.main import main; main(sys.argv[1:])"


class Stranger:
    """A virtual environment of somebody who writes a plugin.

    It borrows the core, its dependencies and the test tools from the one that
    runs the tests; what is installed into it is its own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run(
            [sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=60
        )
        self.python = folder / "bin" / "python"
        (site,) = folder.glob("lib/python*/site-packages")
        metadata = Path(str(distribution("lmcache-core").locate_file("")))
        borrowed = [str(Path(lmcache_core.__file__).parents[1]), str(metadata)]
        borrowed += [entry for entry in sys.path if entry.endswith("site-packages")]
        (site / "borrowed.pth").write_text("\n".join(dict.fromkeys(borrowed)) + "\n")
        (site / "lmcache_blocked.py").write_text(BLOCKED)
        (site / "blocked.pth").write_text("import lmcache_blocked\n")

    def pip(self, *arguments: str | Path) -> None:
        """Run pip for this environment, without a network."""
        self.run(sys.executable, "-m", "pip", "--python", self.python, *arguments)

    def lmcache(self, *arguments: str) -> str:
        """Run the command; return what it printed."""
        return self.run(self.python, "-c", LMCACHE, *arguments)

    def pytest(self, folder: Path) -> str:
        """Run an author's tests."""
        return self.run(self.python, "-m", "pytest", "-p", "no:cacheprovider", cwd=folder)

    def run(self, *command: str | Path, cwd: Path | None = None) -> str:
        """Run a program for this environment; return what it printed."""
        variables = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "PYTEST", "LMCACHE"))
        }
        variables |= {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        done = subprocess.run(
            [str(word) for word in command],
            cwd=cwd or self.folder,
            env=variables,
            check=False,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
        return done.stdout


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    """With the wheel of the template."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("stranger")
    stranger = Stranger(folder / "venv")
    wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*wheel, "-w", folder, TEMPLATE], check=True, timeout=120)
    stranger.pip("install", "-q", "--no-deps", *folder.glob("*.whl"))
    return stranger


def test_the_template_is_what_the_command_writes() -> None:
    written = {str(path): text for path, text in NewDistribution("backend", NAME).files()}
    found = {
        str(path.relative_to(TEMPLATE)): path.read_text()
        for path in TEMPLATE.rglob("*")
        if path.is_file() and not IGNORED & set(path.parts)
    }
    assert found == written, (
        f"remove {TEMPLATE.name} and write it anew with: "
        f"lmcache plugins new backend {NAME} --directory examples/{TEMPLATE.name}"
    )


def test_the_stranger_has_no_framework(stranger: Stranger) -> None:
    for name in ("torch", "lmcache_core.memory._native"):
        with pytest.raises(AssertionError, match="not on an author's laptop"):
            stranger.run(stranger.python, "-c", f"import {name}")


def test_its_wheel_is_listed(stranger: Stranger) -> None:
    offers = json.loads(stranger.lmcache("plugins", "--json"))
    (offer,) = [offer for offer in offers if offer["name"] == "ShelfBackend"]
    assert (offer["status"], offer["distribution"], offer["version"]) == (
        *("loaded", "lmcache-backend-shelf", "0.1.0"),
    )
    assert [key["name"] for key in offer["configuration"]] == ["path"]
    assert offer["configuration"][0]["type"]["description"]


def test_its_own_tests_pass_within_a_minute(stranger: Stranger) -> None:
    begin = time.monotonic()
    last = stranger.pytest(TEMPLATE).splitlines()[-1]
    assert time.monotonic() - begin < 60
    assert " passed" in last
    assert "failed" not in last


def test_the_wheel_passes_the_check(stranger: Stranger) -> None:
    arguments = ("plugins", "check", "lmcache-backend-shelf", "--config", "path={folder}")
    outcomes = json.loads(stranger.lmcache(*arguments, "--json"))
    assert {outcome["result"] for outcome in outcomes} == {"passed", "skipped"}
    passed = {o["check"] for o in outcomes if o["result"] == "passed"}
    assert {"it_is_typed", "its_module_is_light", "frames_survive_reopening"} <= passed
