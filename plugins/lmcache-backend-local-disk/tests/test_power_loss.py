"""What was said to be durable survives a loss of power; without any one sync it does not.

Nor does it without any one note of what is to be synced.
"""

from __future__ import annotations

import ast
import sys
import tempfile
from pathlib import Path

import pytest

import lmcache_backend_local_disk
from lmcache_backend_local_disk.unsynced import Unsynced
from tests.disk.lives import MEMORY, lives

SEEDS = range(30)
SOURCE = Path(lmcache_backend_local_disk.__file__).parent


def calls_of(names: set[str], *, but: str) -> list[tuple[str, int]]:
    """Every place in the source but one file from which one of some methods is called."""
    return [
        (path.name, node.lineno)
        for path in sorted(SOURCE.glob("*.py"))
        if path.name != but
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in names
    ]


def sync_calls() -> list[tuple[str, int]]:
    """Every place from which something is synced."""
    return calls_of({"fsync", "syncfs"}, but="calls.py")  # where they are forwarded


def notes() -> list[tuple[str, int]]:
    """Every place that notes what is to be synced."""
    return calls_of({"wrote", "removed", "anything"}, but="unsynced.py")


@pytest.fixture
def place_apart():
    """In memory where there is such a place: what a disk does to it is the account's."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        yield Path(name)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_durable_is_there_and_nothing_half_written_verifies(place_apart, seed):
    assert lives(place_apart, seed, frozenset()) == []


@pytest.mark.parametrize("place", sync_calls(), ids=lambda place: f"{place[0]}-{place[1]}")
def test_without_any_one_sync_it_is_noticed(place_apart, place):
    for seed in SEEDS:
        if lives(place_apart, seed, frozenset([place])):
            return
    pytest.fail(f"nothing was wrong in {len(SEEDS)} pairs of lives without the sync at {place}")


@pytest.mark.parametrize("place", notes(), ids=lambda place: f"{place[0]}-{place[1]}")
def test_without_any_one_note_it_is_noticed(place_apart, place, monkeypatch):
    def unless_from_there(note):
        def called(*arguments):
            frame = sys._getframe(1)
            if (Path(frame.f_code.co_filename).name, frame.f_lineno) != place:
                note(*arguments)

        return called

    for name in ("wrote", "removed", "anything"):
        monkeypatch.setattr(Unsynced, name, unless_from_there(getattr(Unsynced, name)))
    for seed in SEEDS:
        if lives(place_apart, seed, frozenset()):
            return
    pytest.fail(f"nothing was wrong in {len(SEEDS)} pairs of lives without the note at {place}")


def test_there_are_syncs_and_notes():
    assert len(sync_calls()) == 6
    assert len(notes()) == 4
