"""Plugins as pip would leave them: a module and its metadata in a folder on the path."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, distributions
from pathlib import Path

import pytest

Install = Callable[..., list[EntryPoint]]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a module as a distribution with one entry point; return all its entry points."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def make(name: str, source: str, *, distribution: str = "", version: str = "1.2.3") -> list:
        distribution = distribution or f"lmcache-test-{name}"
        module = f"lmcache_test_{name.replace('-', '_')}_{distribution.replace('-', '_')}"
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
        (info / "entry_points.txt").write_text(f"[lmcache_core]\n{name} = {module}\n")
        (found,) = distributions(name=distribution, path=[str(tmp_path)])
        return list(found.entry_points)

    yield make
    for module in set(sys.modules) - before:
        if module.startswith("lmcache_test_"):
            del sys.modules[module]
