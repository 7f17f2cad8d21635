"""A virtual environment that the tools install into, and what may go wrong there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

MINIMUM_PYTHON = (3, 11)
_GIB = 1 << 30
_PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input")
# Compiling every module of torch and transformers costs minutes of which a run
# wins back seconds.
_INSTALL = ("install", "--no-compile", "--quiet", "--retries", "2")
_NO_SPACE = re.compile(r"No space left on device", re.IGNORECASE)
_NO_NETWORK = re.compile(
    r"NewConnectionError|ConnectTimeout|Failed to establish a new connection|name resolution"
    r"|Name or service not known|Network is unreachable|ProxyError|Read timed out|ConnectionError"
)


class InstallError(Exception):
    """An installation cannot go on; the message says why and what to do."""


class Environment:
    """A Python that packages are installed for.

    Attributes:
        python: Its interpreter.
    """

    def __init__(self, python: Path) -> None:
        self.python = python

    @classmethod
    def at(cls, path: Path) -> Environment:
        """Take an interpreter or a virtual environment's folder.

        Raises:
            InstallError: There is no interpreter there.
        """
        # Not resolved: a virtual environment's interpreter is a link out of it.
        python = (path / "bin" / "python" if path.is_dir() else path).absolute()
        if not os.access(python, os.X_OK):
            raise InstallError(
                f"{path} is neither a virtual environment nor a Python interpreter; "
                f"make one with: python3 -m venv {path}"
            )
        return cls(python)

    @classmethod
    def make(cls, folder: Path) -> Environment:
        """Make a virtual environment with the interpreter that runs this.

        Raises:
            InstallError: It cannot be made.
        """
        require_python()
        require_space(folder.parent, 0.2, "a virtual environment")
        made = subprocess.run(
            [sys.executable, "-m", "venv", str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise InstallError(
                f"the virtual environment {folder} could not be made: {_last_line(made)}. "
                "On Debian and Ubuntu: apt-get install python3-venv"
            )
        return cls(folder.absolute() / "bin" / "python")

    @property
    def folder(self) -> Path:
        """The environment's folder."""
        return self.python.parent.parent

    def version(self, distribution: str) -> str | None:
        """Tell the installed version of a distribution, or None."""
        code = (
            "import importlib.metadata as m, sys\n"
            "try: print(m.version(sys.argv[1]))\n"
            "except m.PackageNotFoundError: pass"
        )
        found = subprocess.run(
            [str(self.python), "-c", code, distribution],
            capture_output=True,
            text=True,
            check=True,
        )
        return found.stdout.strip() or None

    def site_packages(self) -> Path:
        """Tell where its packages lie."""
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        found = subprocess.run(
            [str(self.python), "-c", code], capture_output=True, text=True, check=True
        )
        return Path(found.stdout.strip())

    def install(self, what: str, *arguments: str) -> None:
        """Install with pip, saying what and how long it took.

        Args:
            what: For people.
            arguments: For ``pip install``.

        Raises:
            InstallError: It failed.
        """
        self.pip(f"installing {what}", *_INSTALL, *arguments)

    def pip(self, doing: str, *arguments: str) -> None:
        """Run pip.

        Raises:
            InstallError: It failed.
        """
        started = time.monotonic()
        print(f"{doing} ...", flush=True)
        done = subprocess.run(
            [str(self.python), *_PIP, *arguments],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            raise InstallError(_explain(doing, done))
        print(f"{doing}: done in {time.monotonic() - started:.0f} s", flush=True)


def require_python() -> None:
    """Refuse a Python that is too old.

    Raises:
        InstallError: It is.
    """
    if sys.version_info < MINIMUM_PYTHON:
        raise InstallError(
            f"Python {'.'.join(map(str, MINIMUM_PYTHON))} or later is needed and this is "
            f"{sys.version.split()[0]}; name another with: make PYTHON=python3.11 ..."
        )


def require_space(folder: Path, gib: float, what: str) -> None:
    """Refuse to start what would not fit.

    Args:
        folder: Where it goes; its nearest existing parent is asked.
        gib: What it takes, in GiB.
        what: For people.

    Raises:
        InstallError: Less is free.
    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < gib * _GIB:
        raise InstallError(
            f"not enough disk space for {what}: it takes about {gib:g} GiB and "
            f"{free / _GIB:.1f} GiB are free at {folder}; free some or use another folder"
        )


def _explain(doing: str, done: subprocess.CompletedProcess[str]) -> str:
    output = done.stdout + done.stderr
    if _NO_SPACE.search(output):
        return f"the disk filled up while {doing}; free some space and run the same command again"
    if _NO_NETWORK.search(output):
        return (
            f"the package index could not be reached while {doing}; check the network and "
            "pip's settings (pip config list), then run the same command again"
        )
    print(output, file=sys.stderr)
    return f"pip failed while {doing}: {_last_line(done)} (its whole output is above)"


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines: Sequence[str] = [
        line
        for line in (done.stderr or done.stdout).splitlines()
        if line.strip() and not line.startswith(("WARNING", "[notice]", "hint", "note"))
    ]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or [f"exit code {done.returncode}"])[-1].removeprefix("ERROR: ").strip()
