"""A tier below host memory: promoted while the request waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.vllm

TIERS = {
    "storage": [
        {"backend": "LocalCPUBackend", "max_size": 0.001},
        {"backend": "shelf", "max_size": 0.1},
    ],
    "staging_size": 0.001,
}


def flood(serving: Any, fresh: Callable[[int], list[int]]) -> None:
    """Store more than host memory has room for."""
    for _ in range(5):
        serving.ask_one(fresh(256))


def test_what_host_memory_lost_comes_back(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]], shelf: Any
) -> None:
    serving = serve(lmcache=TIERS)
    ids = fresh(256)
    cold = serving.ask_one(ids)
    flood(serving, fresh)
    promoted = serving.totals()["promoted_chunks"]
    disk = serving.metric("vllm:prompt_tokens_cached_by_source", source="disk")
    warm = serving.ask_one(ids)
    assert warm.cached == 255
    assert warm.same_as(cold)
    assert serving.totals()["promoted_chunks"] - promoted == 4
    assert serving.metric("vllm:prompt_tokens_cached_by_source", source="disk") - disk == 255


def test_a_damaged_frame_is_computed_again(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]], shelf: Any
) -> None:
    serving = serve(lmcache=TIERS)
    ids = fresh(256)
    cold = serving.ask_one(ids)
    flood(serving, fresh)
    for key, frame in list(shelf.frames.items()):
        damaged = bytearray(frame)
        damaged[-1] ^= 1
        shelf.frames[key] = bytes(damaged)
    warm = serving.ask_one(ids)
    assert warm.cached == 0
    assert warm.same_as(cold)


def test_aborts_while_promoting_leave_nothing(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]], shelf: Any
) -> None:
    serving = serve(lmcache=TIERS)
    ids = fresh(256)
    cold = serving.ask_one(ids)
    flood(serving, fresh)
    engine = serving.llm.llm_engine
    for number in range(5):
        name = f"aborted {number}"
        engine.add_request(name, {"prompt_token_ids": ids}, serving.sampling(4))
        for _ in range(number):
            engine.step()
        engine.abort_request([name])
    while engine.has_unfinished_requests():
        engine.step()
    serving.settle()
    warm = serving.ask_one(ids)
    assert warm.same_as(cold)
    assert serving.side.open_jobs == 0
    assert not serving.side._tracked
