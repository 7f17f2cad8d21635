#!/usr/bin/env python3
"""Have a Redis server for the tests, without root and without touching the system.

    python tools/install_redis.py FOLDER

Where the system has redis-server or valkey-server, that one is taken. Elsewhere
Debian's packages, or Ubuntu's, are fetched and unpacked into FOLDER: the server
and the libraries that the system lacks. Quick when it is there already.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

NAMES = ("redis-server", "valkey-server")
PACKAGE = "redis-server"
_SECONDS = 120
_PACKAGE_FILE = re.compile(r"^'[^']*/([^/_']+)_[^/']*\.deb'", re.MULTILINE)


class NoServerError(Exception):
    """There is no server, and none can be had; the message says why."""


def install_redis(folder: Path) -> Path:
    """Have a server.

    Args:
        folder: Where it is unpacked, if it has to be.

    Returns:
        The folder of its program, for PATH.

    Raises:
        NoServerError: There is none.
    """
    for name in NAMES:
        found = shutil.which(name)
        if found is not None:
            return Path(found).parent
    programs = folder.absolute() / "bin"
    if not (programs / PACKAGE).exists():
        print("fetching redis-server ...", flush=True)
        _unpack(folder.absolute())
        _write_program(folder.absolute(), programs / PACKAGE)
    return programs


def _unpack(folder: Path) -> None:
    """Fetch the packages that the system lacks for a server, and unpack them."""
    shutil.rmtree(folder, ignore_errors=True)
    state, debs = folder / "apt", folder / "debs"
    for path in (state / "lists" / "partial", state / "archives" / "partial", debs):
        path.mkdir(parents=True)
    # Lists of our own: those of the system may be missing, as in most
    # containers, and only root may fetch them.
    apt = [
        *("apt-get", "--quiet", "--quiet", "-o", "Debug::NoLocking=1"),
        *("-o", f"Dir::State={state}", "-o", f"Dir::Cache={state}"),
        *("-o", "Dir::State::status=/var/lib/dpkg/status", "-o", "APT::Sandbox::User="),
    ]
    _run([*apt, "update"], folder)
    wanted = _run([*apt, "install", "--no-install-recommends", "--print-uris", PACKAGE], folder)
    names = _PACKAGE_FILE.findall(wanted)
    if PACKAGE not in names:
        raise NoServerError(f"apt-get knows no package {PACKAGE}")
    _run([*apt, "download", *names], debs)
    for deb in sorted(debs.glob("*.deb")):
        _run(["dpkg", "-x", str(deb), str(folder / "root")], folder)
    shutil.rmtree(debs)
    shutil.rmtree(state)


def _write_program(folder: Path, program: Path) -> None:
    """Write a program that starts the server with the libraries that came with it."""
    libraries = {str(path.parent) for path in (folder / "root").rglob("*.so*")}
    path = ":".join(sorted(libraries))
    server = folder / "root" / "usr" / "bin" / PACKAGE
    program.parent.mkdir(exist_ok=True)
    # It becomes the server, so that who stops the one stops the other.
    program.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH="{path}" exec "{server}" "$@"\n')
    program.chmod(0o755)
    _run([str(program), "--version"], folder)


def _run(command: Sequence[str], folder: Path) -> str:
    # Not the system's settings for downloads in the background or for people.
    variables = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        raise NoServerError(f"there is no {command[0]} here") from error
    except subprocess.TimeoutExpired as error:
        raise NoServerError(f"{command[0]} did not finish within {_SECONDS} s") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise NoServerError(f"{command[0]} failed: {(lines or ['it does not say why'])[-1]}")
    return done.stdout


def main() -> int:
    """Install from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the server goes")
    try:
        print(install_redis(parser.parse_args().folder))
    except NoServerError as error:
        print(f"no Redis server: {error}; install {' or '.join(NAMES)}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
