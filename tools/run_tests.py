#!/usr/bin/env python3
"""Run every test from nothing, against wheels.

    python3.11 tools/run_tests.py [PYTEST ARGUMENTS]

Makes a fresh environment with vLLM, builds the wheels of all distributions,
installs those, copies the tests and what they read into a folder that has no
source of ours, and runs pytest there: what passes is what a stranger installs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import distributions
from distributions import ROOT
from environment import Environment, InstallError
from install_redis import NoServerError, install_redis
from install_vllm import install_vllm

_FOLDER = ROOT / "build" / "test"
# Not made anew: what is tested is not in it.
_REDIS = ROOT / "build" / "redis"
_COPIED = (
    *("tests", "examples", "docs", "benchmarks", "tools", ".ci"),
    *("pyproject.toml", "Makefile", "README.md", "CHANGELOG.md"),
    *("plugins/*/tests", "plugins/*/pyproject.toml", "plugins/*/*.md", "csrc/*.md"),
)
# These start servers, compilers, type checkers and pytest, and wait for them.
_OF_PROCESSES = ("tests/e2e", "tests/examples", "tests/packaging", "tests/cli", "tests/testing")
# The connector's tests run vLLM inside pytest's process, which is never the
# same afterwards. Each session waits for a third of its time, so that three of
# them keep two cores busy.
_SESSIONS = (
    ("tests", *(f"--ignore={folder}" for folder in _OF_PROCESSES)),
    _OF_PROCESSES,
    ("plugins",),
)
_NO_TESTS = 5
# A test that hangs is a failure that nobody sees.
_TEST_SECONDS = 300


def run_tests(arguments: Sequence[str]) -> int:
    """Build, install and test.

    Args:
        arguments: For pytest.

    Returns:
        pytest's exit code.

    Raises:
        InstallError: There is nothing to test.
    """
    shutil.rmtree(_FOLDER, ignore_errors=True)
    _FOLDER.mkdir(parents=True)
    environment = Environment.make(_FOLDER / "venv")
    with ThreadPoolExecutor() as pool:
        # Most of vLLM's installation waits for the network and the disk.
        building = pool.submit(distributions.build_wheels, _FOLDER / "builder", _FOLDER / "wheels")
        fetching = pool.submit(_redis)
        print(install_vllm(environment), flush=True)
        # The build tools, too: some tests build wheels.
        tools = [*distributions.build_tools(), *distributions.test_tools()]
        environment.install("the build and test tools", *tools)
        wheels = building.result()
        redis = fetching.result()
    environment.install("the wheels", *(str(wheel) for wheel in wheels))
    pytest = [
        *(str(environment.python), "-m", "pytest", "-p", "no:cacheprovider"),
        *(f"--timeout={_TEST_SECONDS}", *arguments),
    ]
    with tempfile.TemporaryDirectory(prefix="lmcache-test-") as name:
        tree = Path(name)
        _copy(tree)
        chosen = any((tree / word.partition("::")[0]).exists() for word in arguments)
        sessions = [()] if chosen else _SESSIONS
        codes = _run(
            [[*pytest, *folder] for folder in sessions], tree, _variables(environment, redis)
        )
    failed = [code for code in codes if code not in {0, _NO_TESTS}]
    return failed[0] if failed else min(codes)


def _run(commands: Sequence[Sequence[str]], folder: Path, variables: dict[str, str]) -> list[int]:
    """Run commands side by side; return their exit codes.

    The first one's output is shown as it comes, that of the others when they
    are done.
    """
    with ExitStack() as stack:
        running: list[tuple[subprocess.Popen[bytes], IO[bytes] | None]] = []
        for number, command in enumerate(commands):
            output = stack.enter_context(tempfile.TemporaryFile()) if number else None
            process = subprocess.Popen(
                command, cwd=folder, env=variables, stdout=output, stderr=output
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)  # Nothing, where it has ended.
            running.append((process, output))
        codes = []
        for process, kept in running:
            codes.append(process.wait())
            if kept is not None:
                kept.seek(0)
                shutil.copyfileobj(kept, sys.stdout.buffer)
                sys.stdout.flush()
        return codes


def _copy(tree: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for pattern in _COPIED:
        for path in ROOT.glob(pattern):
            target = tree / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, target, ignore=ignored)
            else:
                shutil.copy2(path, target)


def _redis() -> Path | None:
    """The folder of a Redis server's program; None where there is none, which is said."""
    try:
        return install_redis(_REDIS)
    except NoServerError as error:
        print(f"no Redis server, its tests are skipped: {error}", flush=True)
        return None


def _variables(environment: Environment, redis: Path | None) -> dict[str, str]:
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LMCACHE_", "PYTHON", "VLLM_"))
    }
    variables["PATH"] = f"{environment.folder / 'bin'}{os.pathsep}{variables['PATH']}"
    variables["REQUIRE_VLLM"] = "1"
    if redis is not None:
        variables["PATH"] += f"{os.pathsep}{redis}"
        variables["REQUIRE_REDIS"] = "1"
    # For the tests of packaging alone, which build from the source.
    variables["SOURCE_TREE"] = str(ROOT)
    return variables


def main() -> int:
    """Run from the command line; returns the exit code."""
    try:
        return run_tests(sys.argv[1:])
    except InstallError as error:
        print(f"the tests could not start: {error}.", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
