"""The distributions of this repository: what they need, and their wheels."""

from __future__ import annotations

import hashlib
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from environment import Environment

ROOT = Path(__file__).resolve().parents[1]
_FINGERPRINT = "lmcache-fingerprint.txt"
_BUILT_FROM = (
    "lmcache_core",
    "csrc",
    "plugins/*/src",
    "LICENSE",
    "README.md",
    "plugins/*/README.md",
)


def folders() -> list[Path]:
    """List the folders of all distributions, the core first."""
    return [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]


def build_tools() -> list[str]:
    """List what building all of them requires."""
    wanted = {need for folder in folders() for need in _project(folder)["build-system"]["requires"]}
    # What scikit-build-core asks for itself where it may install; without them a
    # machine that has no CMake could not even build the wheel without kernels.
    return sorted(wanted | {"cmake", "ninja"})


def dependencies() -> list[str]:
    """List what all of them depend on, less each other."""
    projects = [_project(folder)["project"] for folder in folders()]
    own = tuple(project["name"] for project in projects)
    wanted = {need for project in projects for need in project.get("dependencies", ())}
    return sorted(need for need in wanted if not need.startswith(own))


def test_tools() -> list[str]:
    """List the development group of the core."""
    return list(_project(ROOT)["dependency-groups"]["dev"])


def build_wheels(builder: Path, destination: Path) -> list[Path]:
    """Build the wheels of all distributions, apart from the environment they are for.

    In one environment without isolation: with it, pip would install the same
    build tools once for each distribution.

    Args:
        builder: Folder of the environment that builds; made where it is not
            there, and quicker the second time.
        destination: Where the wheels go.

    Returns:
        The wheels.

    Raises:
        InstallError: One cannot be built.
    """
    environment = _builder(builder)
    core, *plugins = folders()
    common = ("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir")
    # Beside the build tools: CMake's cache names their paths, so that it may be
    # used again as long as they are there, and no longer.
    build = environment.folder / "lmcache-build"
    environment.pip(
        "building the core's wheel",
        *(*common, str(destination), f"--config-settings=build-dir={build}", str(core)),
    )
    environment.pip(
        "building the plugins' wheels", *common, str(destination), *(str(path) for path in plugins)
    )
    return sorted(destination.glob("*.whl"))


def _builder(folder: Path) -> Environment:
    tools = build_tools()
    print_ = hashlib.sha256("\n".join([*tools, sys.version]).encode()).hexdigest()
    if (folder / "bin" / "python").exists():
        environment = Environment.at(folder)
        if is_installed(environment, print_):
            return environment
    environment = Environment.make(folder)
    environment.install("the build tools", *tools)
    mark_installed(environment, print_)
    return environment


def fingerprint() -> str:
    """Digest everything that the distributions are built from."""
    digest = hashlib.sha256()
    for path in sorted(_sources()):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def is_installed(environment: Environment, print_: str) -> bool:
    """Tell whether an environment was marked with this fingerprint."""
    mark = environment.folder / _FINGERPRINT
    return mark.exists() and mark.read_text() == print_


def mark_installed(environment: Environment, print_: str) -> None:
    """Mark an environment with the fingerprint of what was installed."""
    (environment.folder / _FINGERPRINT).write_text(print_)


def _sources() -> Iterator[Path]:
    for folder in folders():
        yield folder / "pyproject.toml"
    for pattern in _BUILT_FROM:
        for found in ROOT.glob(pattern):
            for path in [found] if found.is_file() else found.rglob("*"):
                if path.is_file() and path.suffix not in {".pyc", ".so"}:
                    yield path


def _project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text())
