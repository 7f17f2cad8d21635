"""Three tiers, each given what the one above evicts: answers are those of a cold engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.vllm

DISK = "LocalDiskBackend"
PATIENCE_SECONDS = 60.0


def tiers(path: Path) -> dict[str, Any]:
    """Host memory and a disk of a few prompts, and a store for what falls through."""
    return {
        "storage": [
            {"backend": "LocalCPUBackend", "max_size": 0.001},
            {"backend": DISK, "max_size": 0.001, "path": str(path), "write": "back"},
            {"backend": "shelf", "max_size": 0.1, "write": "back"},
        ],
        "staging_size": 0.001,
    }


def wait_for(done: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not done():
        assert time.monotonic() < end, "the machine is too slow, or it never comes"
        time.sleep(0.01)


def test_prompts_fall_through_all_tiers_and_come_back_from_each(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]], shelf: Any, tmp_path: Path
) -> None:
    serving = serve(lmcache=tiers(tmp_path))
    asked = {}
    for _ in range(14):
        ids = fresh(256)
        asked[tuple(ids)] = serving.ask_one(ids)
        # What is on its way from one store to the next is found in neither.
        wait_for(lambda: settled(serving))
    totals = serving.totals()
    assert totals[f"{DISK}.demoted_frames"] > totals["shelf.demoted_frames"] > 0
    assert totals[f"{DISK}.demotions_dropped"] == totals["shelf.demotions_dropped"] == 0
    for ids, cold in asked.items():
        warm = serving.ask_one(list(ids))
        wait_for(lambda: settled(serving))
        assert warm.cached == 255
        assert warm.same_as(cold)
    assert serving.totals()["shelf.read_frames"] > 0
    assert serving.totals()[f"{DISK}.damaged_frames"] == 0


def settled(serving: Any) -> bool:
    """Whether every chunk is in some tier and none is on its way."""
    stack = serving.engine.tiers
    with stack.lock:
        return not (
            stack.lowering.waiting_bytes
            or stack.memory._demoting_bytes
            or any(tier._writes._jobs.qsize() for tier in stack.storage)
        )
