"""``kv_role``: who reads and who stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.vllm


def test_a_producer_stores_and_reads_nothing(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]]
) -> None:
    serving = serve(transfer={"kv_role": "kv_producer"})
    ids = fresh(100)
    first, second = serving.ask_one(ids), serving.ask_one(ids)
    assert (first.cached, second.cached) == (0, 0)
    assert second.same_as(first)
    assert serving.totals()["stored_tokens"] == 100


def test_a_consumer_reads_and_stores_nothing(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]], shelf: Any
) -> None:
    tiers = [
        {"backend": "LocalCPUBackend", "max_size": 0.01},
        {"backend": "shelf", "max_size": 0.1},
    ]
    ids = fresh(128)
    cold = serve(lmcache={"storage": tiers}, transfer={"kv_role": "kv_producer"}).ask_one(ids)
    # Closing the engine writes what is queued.
    serving = serve(lmcache={"storage": tiers}, transfer={"kv_role": "kv_consumer"})
    new = fresh(100)
    serving.ask_one(new)
    assert serving.ask_one(new).cached == 0
    assert serving.totals()["stored_tokens"] == 0
    warm = serving.ask_one(ids)
    assert warm.cached == 127
    assert warm.same_as(cold)
