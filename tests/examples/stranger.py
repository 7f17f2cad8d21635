"""The environment of somebody who writes a plugin."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import lmcache_core

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
SHIMS = {
    "lmcache": 'exec "{python}" -c "from lmcache_core.cli.main import main; main()" "$@"',
    "pytest": 'exec "{python}" -m pytest -p no:cacheprovider "$@"',
    # Without a network, and with the build tools that are there.
    "pip": 'exec "{host}" -m pip --python "{python}" "$@"',
}
NO_NETWORK = {
    "PIP_NO_INDEX": "1",
    "PIP_NO_BUILD_ISOLATION": "false",  # pip reads it the other way round
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
}


class Stranger:
    """A virtual environment and a home.

    It borrows the core, its dependencies and the test tools from the
    environment that runs the tests; what is installed into it is its own.
    torch, vLLM, numpy and the native page mover cannot be imported there.

    Args:
        home: A folder that is made for it.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        venv = home / "venv"
        command = [sys.executable, "-m", "venv", "--without-pip", venv]
        subprocess.run(command, check=True, timeout=60)
        self._programs = venv / "bin"
        (site,) = venv.glob("lib/python*/site-packages")
        borrowed = [
            str(Path(lmcache_core.__file__).parents[1]),
            str(distribution("lmcache-core").locate_file("")),
            *(entry for entry in sys.path if entry.endswith("site-packages")),
        ]
        (site / "borrowed.pth").write_text("\n".join(dict.fromkeys(borrowed)) + "\n")
        (site / "lmcache_blocked.py").write_text(BLOCKED)
        (site / "blocked.pth").write_text("import lmcache_blocked\n")
        for name, line in SHIMS.items():
            program = self._programs / name
            command = line.format(python=self._programs / "python", host=sys.executable)
            program.write_text(f"#!/bin/sh\n{command}\n")
            program.chmod(0o755)

    def shell(self, *commands: str, cwd: Path | None = None, status: int = 0) -> str:
        """Run commands one after the other; return what they printed."""
        steering = ("PYTHON", "PYTEST", "LMCACHE")
        variables = {k: v for k, v in os.environ.items() if not k.startswith(steering)}
        variables |= NO_NETWORK | {
            "HOME": str(self.home),
            "PATH": f"{self._programs}{os.pathsep}{os.environ['PATH']}",
        }
        done = subprocess.run(
            ["bash", "-euc", "\n".join(commands)],
            cwd=cwd or self.home,
            env=variables,
            check=False,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == status, done.stdout[-5000:] + done.stderr[-5000:]
        return done.stdout
