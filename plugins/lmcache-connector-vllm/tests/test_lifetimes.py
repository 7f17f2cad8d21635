"""Requests come and go in every way; nothing of them stays."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.vllm


class Loop:
    """Requests under way in an engine, by hand."""

    def __init__(self, serving: Any) -> None:
        self.serving = serving
        self.engine = serving.llm.llm_engine
        self.answers: dict[str, tuple[int, ...]] = {}
        self._number = 0

    def add(self, ids: list[int], tokens: int) -> str:
        self._number += 1
        name = f"request {self._number}"
        self.engine.add_request(name, {"prompt_token_ids": ids}, self.serving.sampling(tokens))
        return name

    def step(self) -> None:
        for output in self.engine.step():
            if output.finished:
                self.answers[output.request_id] = tuple(output.outputs[0].token_ids)

    def abort(self, name: str) -> None:
        self.engine.abort_request([name])

    def finish(self) -> None:
        while self.engine.has_unfinished_requests():
            self.step()
        self.serving.settle()


@pytest.mark.parametrize("prefix_caching", [False, True])
def test_aborts_at_every_step_leave_nothing(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]], prefix_caching: bool
) -> None:
    serving = serve(enable_prefix_caching=prefix_caching)
    prompts = [fresh(330), fresh(97), fresh(200)]
    cold = [serving.cold(ids) for ids in prompts]
    if prefix_caching:
        assert serving.scheduler.reset_prefix_cache()
    free = serving.free_blocks()
    for steps in range(9):
        loop = Loop(serving)
        going = loop.add(prompts[steps % 3], 8)
        staying = loop.add(prompts[(steps + 1) % 3], 8)
        for _ in range(steps):
            loop.step()
        loop.abort(going)
        loop.finish()
        assert loop.answers[staying] == cold[(steps + 1) % 3].tokens
        assert serving.side.open_jobs == 0
        assert not serving.side.holds_blocks
        assert serving.leased() == 0
        assert serving.free_blocks() == free
    for reference, answer in zip(cold, serving.ask(prompts), strict=True):
        assert answer.same_as(reference)


def test_ten_thousand_requests_with_aborts_leave_nothing(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]]
) -> None:
    # The cache is smaller than what is stored, and the KV cache than what runs.
    serving = serve(
        num_gpu_blocks_override=120,
        max_num_seqs=64,
        lmcache={"max_local_cpu_size": 0.0008, "staging_size": 0.0005},
    )
    prompts = [fresh(length) for length in (5, 12, 12, 31, 33, 64, 90, 150, 257, 300)]
    cold = {tuple(ids): serving.cold(ids, 2).tokens for ids in prompts}
    serving.ask(prompts, 2)
    free, threads, descriptors = serving.free_blocks(), threading.active_count(), open_files()
    rng = random.Random(7)
    asked: dict[str, tuple[int, ...]] = {}
    loop = Loop(serving)
    for _ in range(10_000):
        ids = rng.choice(prompts)
        asked[loop.add(ids, 2)] = tuple(ids)
        if rng.random() < 0.5:
            loop.abort(rng.choice(list(asked)[-30:]))
        if rng.random() < 0.1:
            loop.step()
    loop.finish()
    assert len(loop.answers) > 1000
    assert len(loop.answers) < 9000
    assert all(answer == cold[asked[name]] for name, answer in loop.answers.items())
    assert serving.leased() == 0
    assert serving.side.open_jobs == 0
    assert not serving.side._tracked
    assert not serving.side._loading
    assert serving.free_blocks() == free
    assert threading.active_count() == threads
    assert open_files() == descriptors
    assert serving.totals()["loaded_tokens"] > 0
    assert serving.totals()["LocalCPUBackend.evictions"] > 0


def test_a_store_outlives_its_request(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks whose request is gone are not given away while they are read."""
    serving = serve(num_gpu_blocks_override=24, max_model_len=512)
    ids, others = fresh(300), [fresh(300) for _ in range(2)]
    cold = serving.cold(ids)
    free = serving.free_blocks()
    gate = serving.hold_stores(monkeypatch)
    loop = Loop(serving)
    name = loop.add(ids, 64)
    for _ in range(3):
        loop.step()
    loop.abort(name)
    assert serving.side.holds_blocks
    assert serving.free_blocks() < free
    for other in others:
        loop.add(other, 4)
    for _ in range(20):
        loop.step()
    gate.set()
    loop.finish()
    assert serving.free_blocks() == free
    warm = serving.ask_one(ids)
    assert warm.cached == 299
    assert warm.same_as(cold)


def test_closing_ends_threads_and_gives_memory_back(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]], engines: Any
) -> None:
    engines.stop()
    threads = {thread.name for thread in threading.enumerate()}
    serving = serve()
    serving.ask_one(fresh(100))
    assert "lmcache-copy" in {thread.name for thread in threading.enumerate()}
    del serving
    engines.stop()
    left = {thread.name for thread in threading.enumerate()} - threads
    assert not [name for name in left if "lmcache" in name]
    assert not [path for path in open_files() if "lmcache" in path]


def open_files() -> list[str]:
    """What this process has open, sockets and pipes by kind only."""
    names = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            names.append(str(link.readlink()).split(":")[0])
        except FileNotFoundError:
            continue
    return sorted(names)
