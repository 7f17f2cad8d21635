"""The core, its commands and its plugins' entry points import nothing heavy."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import pytest

HEAVY = ["torch", "vllm", "numpy"]
HEAVY_FOR_A_COMMAND = [*HEAVY, "litestar", "uvicorn", "zmq", "pytest"]

PROBE = """
import json, sys
{statement}
print(json.dumps([name for name in {names!r} if name in sys.modules]))
"""

COMMAND = """
try:
    from lmcache_core.cli.main import main
    main({arguments!r})
except SystemExit as end:
    assert not end.code, end.code
"""


def imported(statement: str, names: list[str]) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-c", PROBE.format(statement=statement, names=names)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert result.returncode == 0, result.stderr
    found: list[str] = json.loads(result.stdout.splitlines()[-1])
    return found


def test_the_probe_sees_an_import() -> None:
    assert imported("import zmq, litestar", HEAVY_FOR_A_COMMAND) == ["litestar", "zmq"]


@pytest.mark.parametrize("module", ["lmcache_core", "lmcache_core.config", "lmcache_core.api"])
def test_the_core_imports_nothing_heavy(module: str) -> None:
    assert imported(f"import {module}", HEAVY_FOR_A_COMMAND) == []


@pytest.mark.parametrize(
    "module", ["lmcache_core.engine", "lmcache_core.controller.server", "lmcache_core.testing"]
)
def test_no_floor_imports_a_framework(module: str) -> None:
    assert imported(f"import {module}", HEAVY) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["plugins"],
        ["plugins", "--json"],
        ["config", "schema"],
        ["controller", "serve", "--help"],
    ],
)
def test_a_command_imports_nothing_heavy(arguments: list[str]) -> None:
    assert imported(COMMAND.format(arguments=arguments), HEAVY_FOR_A_COMMAND) == []


def test_the_kits_pytest_plugin_imports_pytest_only() -> None:
    statement = "import lmcache_core.testing.pytest_plugin"
    names = ["lmcache_core.api", "lmcache_core.testing.storage", "hypothesis", "msgspec"]
    assert imported(statement, names) == []


def test_help_is_there_at_once() -> None:
    """Three tenths of a second on a machine that has nothing else to do: so of the processor's."""

    def seconds(statement: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        imported(statement, [])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds(COMMAND.format(arguments=["--help"])) for _ in range(5)) < 0.3
