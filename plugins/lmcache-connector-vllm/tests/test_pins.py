"""Pins beside the prefix cache that vLLM has itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lmcache_core.api.pins import OnMissing, PinReport, PinRequest, PinState
from lmcache_core.keys import tokens_to_bytes

pytestmark = pytest.mark.vllm

MEMORY = "LocalCPUBackend"

Serve = Callable[..., Any]
Fresh = Callable[[int], list[int]]


def pinned(serving: Any, ids: list[int]) -> PinReport:
    """The report of a pin that waits for what it lacks."""
    tokens = tokens_to_bytes(ids)
    request = PinRequest(
        pin_id="p", version=1, location=MEMORY, tokens=tokens, on_missing=OnMissing.RESERVE
    )
    with serving.engine.tiers.lock:
        report: PinReport = serving.engine.tiers.pins.pin(request)
    return report


def test_what_a_pin_has_lost_is_stored_again_though_vllm_has_it_and_computes_nothing(
    serve: Serve, fresh: Fresh
) -> None:
    serving = serve(enable_prefix_caching=True)
    ids = fresh(300)
    cold = serving.ask_one(ids)
    assert pinned(serving, ids).state is PinState.ACTIVE
    tiers = serving.engine.tiers
    tiers.drop(MEMORY, tiers.keys(MEMORY), force=True)
    assert (pinned(serving, ids).state, pinned(serving, ids).tokens_pinned) == (
        PinState.PENDING,
        0,
    )
    # One token is asked for, as a controller does that has a pin warmed.
    device = serving.metric("vllm:prompt_tokens_cached_by_source", source="device")
    assert serving.ask_one(ids, 1).cached == 288
    assert serving.metric("vllm:prompt_tokens_cached_by_source", source="device") - device == 288
    assert pinned(serving, ids).tokens_pinned == 300
    assert serving.ask_one(ids).same_as(cold)
