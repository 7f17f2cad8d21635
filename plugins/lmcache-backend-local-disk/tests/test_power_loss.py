"""What was said to be durable survives a loss of power; without any one sync it does not."""

from __future__ import annotations

import ast
import tempfile
from pathlib import Path

import pytest

import lmcache_backend_local_disk
from tests.disk.lives import MEMORY, lives

SEEDS = range(30)
SOURCE = Path(lmcache_backend_local_disk.__file__).parent


def sync_calls() -> list[tuple[str, int]]:
    """Every place in the source from which something is synced."""
    return [
        (path.name, node.lineno)
        for path in sorted(SOURCE.glob("*.py"))
        if path.name != "calls.py"  # where they are not made but forwarded
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"fsync", "syncfs"}
    ]


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


def test_there_are_syncs():
    assert len(sync_calls()) == 4
