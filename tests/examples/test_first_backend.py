"""The tutorial "Your first backend", typed in by somebody who has only the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import commands_in
from tests.examples.stranger import Stranger

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial" / "first-backend.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
TEXT = re.compile(r"^```text\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROJECT = "lmcache-backend-shelf"


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    """With the backend written and installed."""
    pytest.importorskip("hatchling")
    stranger = Stranger(tmp_path_factory.mktemp("home"))
    stranger.shell(*commands_in(SECTIONS["Write it"]))
    stranger.shell(*commands_in(SECTIONS["Install it"]), cwd=stranger.home / PROJECT)
    return stranger


def source(stranger: Stranger, name: str) -> Path:
    return stranger.home / PROJECT / "src" / "lmcache_backend_shelf" / name


def test_the_code_that_is_shown_is_what_was_written(stranger: Stranger) -> None:
    (shown,) = CODE.findall(SECTIONS["Write it"])
    assert shown in source(stranger, "backend.py").read_text()


def test_it_is_listed_as_shown(stranger: Stranger) -> None:
    (command,) = commands_in(SECTIONS["See it listed"])
    _, _, shown = SECTIONS["See it listed"].partition(f"$ {command}\n")
    assert stranger.shell(command) == shown.partition("```")[0]
    assert "ShelfBackend" in stranger.shell("lmcache plugins")


def test_it_is_checked_changed_and_checked_again(stranger: Stranger) -> None:
    everything, usage, again, installed = commands_in(SECTIONS["Check it"])
    assert usage == again
    folder = stranger.home / PROJECT
    assert " failed" not in stranger.shell(everything, cwd=folder).splitlines()[-1]
    (declared,), (kept,) = TEXT.findall(SECTIONS["Check it"]), CODE.findall(SECTIONS["Check it"])
    plugin, backend = source(stranger, "plugin.py"), source(stranger, "backend.py")
    before = plugin.read_text()
    after = re.sub(r"^ +capabilities=.*\n", declared, before, flags=re.MULTILINE)
    assert after != before
    plugin.write_text(after)
    assert " 3 failed" in stranger.shell(usage, cwd=folder, status=1).splitlines()[-1]
    text = backend.read_text().replace(
        "import BackendContext,", "import StoreUsage, BackendContext,"
    )
    behind = text.index("    def _length")
    backend.write_text(f"{text[:behind]}{kept}\n{text[behind:]}")
    assert " 3 passed" in stranger.shell(again, cwd=folder).splitlines()[-1]
    assert stranger.shell(installed, cwd=folder).rstrip().endswith(" 0 failed")
