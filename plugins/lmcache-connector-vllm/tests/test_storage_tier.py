"""A tier below host memory: promoted while the request waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lmcache_core.api import Capability, StorageBackendSpec
from lmcache_core.plugins import PluginRegistry

pytestmark = pytest.mark.vllm

TIERS = {
    "storage": [
        {"backend": "LocalCPUBackend", "max_size": 0.001},
        {"backend": "shelf", "max_size": 0.1},
    ],
    "staging_size": 0.001,
}


@pytest.fixture(scope="module")
def shelf(engines: Any) -> Iterator[Any]:
    """A store of this process, offered to every registry."""
    from lmcache_core.testing import DictBackend, DictConfig, DictStore

    store = DictStore()
    spec = StorageBackendSpec(
        name="shelf",
        summary="of a test",
        load=lambda: lambda config, context: DictBackend(config, context, store),
        config=DictConfig,
        capabilities=DictBackend.capabilities | Capability.DURABLE,
    )
    discover = PluginRegistry.discover

    def discover_more(*arguments: Any) -> PluginRegistry:
        registry = discover(*arguments)
        registry.offer(spec)
        return registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PluginRegistry, "discover", discover_more)
        yield store
        engines.stop()


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
