#!/usr/bin/env python3
"""Run the checks that read the sources: ruff, mypy and import-linter.

    python3.11 tools/run_checks.py

They run in an environment of their own under build/, which is made anew only
when a pyproject.toml has changed.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys

import distributions
from distributions import ROOT
from environment import Environment, InstallError

_FOLDER = ROOT / "build" / "check"
_MYPY_CACHE = ROOT / ".mypy_cache"


def run_checks() -> int:
    """Run all checks.

    Returns:
        0 where all passed.

    Raises:
        InstallError: They cannot be installed.
    """
    environment = _environment()
    scripts = environment.folder / "bin"
    plugins = [str((folder / "src").relative_to(ROOT)) for folder in distributions.folders()[1:]]
    failed = 0
    for command in (
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy", "lmcache_core"],
        *(["mypy", folder] for folder in plugins),
        ["mypy", "examples"],
        ["lint-imports"],
    ):
        print(f"$ {' '.join(command)}", flush=True)
        path = str(scripts / command[0])
        failed += subprocess.run([path, *command[1:]], cwd=ROOT, check=False).returncode != 0
    # They import each other as scripts do, from their own folder.
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(_MYPY_CACHE)]
    tools = [str(scripts / "mypy"), *options, "."]
    print("$ cd tools && mypy .", flush=True)
    failed += subprocess.run(tools, cwd=ROOT / "tools", check=False).returncode != 0
    print(f"{failed} checks failed" if failed else "all checks passed")
    return 1 if failed else 0


def _environment() -> Environment:
    wanted = sorted({*distributions.dependencies(), *distributions.test_tools()})
    print_ = hashlib.sha256("\n".join([*wanted, sys.version]).encode()).hexdigest()
    if (_FOLDER / "bin" / "python").exists():
        environment = Environment.at(_FOLDER)
        if distributions.is_installed(environment, print_):
            return environment
    _FOLDER.parent.mkdir(exist_ok=True)
    environment = Environment.make(_FOLDER)
    environment.install("the checkers and what the sources import", *wanted)
    distributions.mark_installed(environment, print_)
    return environment


def main() -> int:
    """Run from the command line; returns the exit code."""
    try:
        return run_checks()
    except InstallError as error:
        print(f"the checks could not start: {error}.", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
