"""The template is what ``lmcache plugins new`` writes, and a stranger can use it.

The stranger's environment has the core, pytest and hypothesis; torch, vLLM,
numpy and the native page mover cannot be imported there.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from lmcache_core.cli.plugins.distribution import NewDistribution
from tests.examples.stranger import Stranger

TEMPLATE = Path(__file__).parents[2] / "examples" / "plugin-template"
NAME = "shelf"
IGNORED = {"__pycache__", ".hypothesis", ".mypy_cache", ".ruff_cache", ".pytest_cache"}


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    """With the wheel of the template."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("stranger")
    wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*wheel, "-w", folder, TEMPLATE], check=True, timeout=120)
    stranger = Stranger(folder)
    stranger.shell("pip install -q --no-deps *.whl")
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
        stranger.shell(f"python -c 'import {name}'", status=1)


def test_its_wheel_is_listed(stranger: Stranger) -> None:
    offers = json.loads(stranger.shell("lmcache plugins --json"))
    (offer,) = [offer for offer in offers if offer["name"] == "ShelfBackend"]
    assert (offer["status"], offer["distribution"], offer["version"]) == (
        *("loaded", "lmcache-backend-shelf", "0.1.0"),
    )
    assert [key["name"] for key in offer["configuration"]] == ["path"]
    assert offer["configuration"][0]["type"]["description"]


def test_its_own_tests_pass_within_a_minute(stranger: Stranger) -> None:
    """Of the processor's time: on a machine that has nothing else to do."""

    def seconds() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before = seconds()
    last = stranger.shell("pytest", cwd=TEMPLATE).splitlines()[-1]
    assert seconds() - before < 60
    assert " passed" in last
    assert "failed" not in last


def test_the_wheel_passes_the_check(stranger: Stranger) -> None:
    command = "lmcache plugins check lmcache-backend-shelf --config 'path={folder}' --json"
    outcomes = json.loads(stranger.shell(command))
    assert {outcome["result"] for outcome in outcomes} == {"passed", "skipped"}
    passed = {o["check"] for o in outcomes if o["result"] == "passed"}
    assert {"it_is_typed", "its_module_is_light", "frames_survive_reopening"} <= passed
