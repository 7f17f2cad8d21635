"""The core builds, installs and copies pages with a compiler and without one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

# `make test` runs in a folder that has no source of ours, and says where it is.
ROOT = Path(os.environ.get("SOURCE_TREE") or Path(__file__).resolve().parents[2])

pytestmark = pytest.mark.slow

MOVES_A_PAGE = """
import sys
from ctypes import addressof, c_char
from lmcache_core.api.connector import SlotCopy
from lmcache_core.memory import LayerPages, PageMover, PageTable, native_status
pages, region = bytearray(b"abcdefgh"), bytearray(8)
table = PageTable([LayerPages(addressof(c_char.from_buffer(pages)), 4, 4, 2)])
PageMover(table, addressof(c_char.from_buffer(region)), 8).gather([SlotCopy(0, 2, 0, (1, 0))])
assert region == b"efghabcd", region
print(sys.modules["lmcache_core"].__file__)
print(native_status().available)
print(native_status().detail)
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env={**os.environ, **environment},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, as it would be published."""
    for needed in ("build", "scikit_build_core", "nanobind"):
        pytest.importorskip(needed)
    folder = tmp_path_factory.mktemp("sdist")
    run("-m", "build", "--sdist", "--no-isolation", "-o", folder, ROOT, cwd=folder)
    (archive,) = folder.glob("*.tar.gz")
    return archive


def wheel_of(sdist: Path, folder: Path, **environment: str) -> Path:
    """Build a wheel from the source distribution alone."""
    shutil.unpack_archive(sdist, folder / "source")
    (source,) = (folder / "source").iterdir()
    run(
        *("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-cache-dir"),
        *("-w", folder / "wheel", source),
        cwd=folder,
        # The CUDA mover takes most of the time where there is an nvcc.
        SKBUILD_CMAKE_DEFINE="LMCACHE_CUDA=OFF",
        **environment,
    )
    (wheel,) = (folder / "wheel").iterdir()
    return wheel


def installed(wheel: Path, folder: Path) -> tuple[bool, str]:
    """Install a wheel aside, move a page with it, and tell what moved it."""
    target = folder / "installed"
    run("-m", "pip", "install", "--no-deps", "--no-index", "--target", target, wheel, cwd=folder)
    place, available, detail = run(
        "-c", MOVES_A_PAGE, cwd=folder, PYTHONPATH=str(target)
    ).splitlines()
    assert Path(place).is_relative_to(target)
    return available == "True", detail


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def assert_typed_and_without_tests(wheel: Path) -> None:
    inside = names(wheel)
    assert {"lmcache_core/py.typed", "lmcache_core/memory/_native.pyi"} <= set(inside)
    metadata = f"lmcache_core-{wheel.name.split('-')[1]}.dist-info"
    assert {name.partition("/")[0] for name in inside} == {"lmcache_core", metadata}
    assert f"{metadata}/licenses/LICENSE" in inside
    # What an author is given to begin with has tests too, and runs nowhere as it is.
    ours = [name for name in inside if not name.endswith(".tmpl")]
    assert not [name for name in ours if Path(name).name.startswith("test_") or "csrc" in name]


def without_compilers(folder: Path) -> dict[str, str]:
    """A search path on which there is no program at all."""
    (folder / "bin").mkdir()
    return {"PATH": str(folder / "bin"), "CC": "", "CXX": ""}


def test_the_source_distribution_is_complete_and_nothing_more(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "csrc/CMakeLists.txt"} <= inside
    folders = {name.partition("/")[0] for name in inside if "/" in name}
    assert folders == {"csrc", "lmcache_core"}
    assert not [name for name in inside if name.endswith((".so", ".pyc"))]


def test_with_a_compiler_the_wheel_has_the_native_mover(sdist: Path, tmp_path: Path) -> None:
    wheel = wheel_of(sdist, tmp_path)
    assert "-none-any" not in wheel.name
    inside = names(wheel)
    assert len([name for name in inside if name.endswith(".so")]) == 1
    assert_typed_and_without_tests(wheel)
    available, detail = installed(wheel, tmp_path)
    assert available, detail
    assert detail.endswith("without CUDA")


@pytest.mark.parametrize("how", ["broken compiler", "no compiler"])
def test_without_a_compiler_the_wheel_is_pure_and_works(
    sdist: Path, tmp_path: Path, how: str
) -> None:
    if how == "no compiler":
        environment = without_compilers(tmp_path)
    else:
        environment = {"CC": "/bin/false", "CXX": "/bin/false"}
    wheel = wheel_of(sdist, tmp_path, **environment)
    assert wheel.name.endswith("-py3-none-any.whl")
    available, detail = installed(wheel, tmp_path)
    assert not available
    assert "install a C++20 compiler" in detail
    assert_typed_and_without_tests(wheel)
