#!/usr/bin/env python3
"""Make the environment that the quickstart runs in: the core, the plugins and vLLM.

    python3.11 tools/make_venv.py .venv

Quick when it is there and nothing changed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import distributions
from environment import Environment, InstallError
from install_vllm import install_vllm

_BUILDER = distributions.ROOT / "build" / "builder"


def make_venv(folder: Path) -> None:
    """Make the environment, or bring it up to date.

    Raises:
        InstallError: It cannot be made.
    """
    if (folder / "bin" / "python").exists():
        environment = Environment.at(folder)
    else:
        environment = Environment.make(folder)
    print_ = distributions.fingerprint()
    if distributions.is_installed(environment, print_):
        install_vllm(environment)
        return
    with (
        tempfile.TemporaryDirectory(prefix="lmcache-wheels-") as name,
        ThreadPoolExecutor() as pool,
    ):
        # Most of vLLM's installation waits for the network and the disk.
        building = pool.submit(distributions.build_wheels, _BUILDER, Path(name))
        install_vllm(environment)
        wheels = [str(wheel) for wheel in building.result()]
        # pip leaves an equal version alone, and the sources may have moved on.
        environment.install("the core and the plugins", "--no-deps", "--force-reinstall", *wheels)
        environment.install("what they depend on", *wheels)
    distributions.mark_installed(environment, print_)


def main() -> int:
    """Make it from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the environment is or goes")
    folder = parser.parse_args().folder
    try:
        make_venv(folder)
    except InstallError as error:
        print(f"{folder} is not ready: {error}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
