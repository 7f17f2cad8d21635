"""Copies that fail cost a hit or a store, and never a wrong token."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from lmcache_core.api.connector import CopyJob, SlotCopy
from lmcache_core.errors import LMCacheError

vllm = pytest.mark.vllm


class Refusing:
    """A mover that moves nothing."""

    def gather(self, copies: Any) -> int:
        raise LMCacheError("planted")

    def scatter(self, copies: Any) -> int:
        raise LMCacheError("planted")


@vllm
def test_a_load_that_fails_is_computed_where_vllm_is_told_to(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = serve(transfer={"kv_load_failure_policy": "recompute"})
    ids, other = fresh(200), fresh(100)
    cold, other_cold = serving.ask([ids, other])
    with monkeypatch.context() as planted:
        planted.setattr(serving.worker, "_loader", Refusing())
        # It must not be offered the same hit for ever.
        for reference, answer in zip((cold, other_cold), serving.ask([ids, other]), strict=True):
            assert answer.same_as(reference)
    assert serving.totals()["failed_jobs"] == 2
    assert serving.leased() == 0
    assert serving.ask_one(ids).same_as(cold)


@vllm
def test_a_load_that_fails_ends_its_request_and_no_other_by_default(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = serve()
    ids, other = fresh(200), fresh(100)
    cold = serving.ask_one(ids)
    with monkeypatch.context() as planted:
        planted.setattr(serving.worker, "_loader", Refusing())
        outputs = serving.llm.generate(
            [{"prompt_token_ids": each} for each in (ids, other)],
            serving.sampling(4),
            use_tqdm=False,
        )
        serving.settle()
    assert [output.outputs[0].finish_reason for output in outputs] == ["error", "length"]
    assert serving.ask_one(ids).same_as(cold)
    assert serving.leased() == 0


@vllm
def test_a_hit_that_cannot_be_planned_is_never_attended_to(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = serve(transfer={"kv_load_failure_policy": "recompute"})
    ids = fresh(200)
    cold = serving.ask_one(ids)
    with monkeypatch.context() as planted:
        planted.setattr(serving.engine, "plan_load", lambda *_: None)
        assert serving.ask_one(ids).same_as(cold)
    assert serving.leased() == 0


@vllm
def test_a_store_that_fails_is_a_miss(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = serve()
    ids, free = fresh(200), serving.free_blocks()
    with monkeypatch.context() as planted:
        planted.setattr(serving.worker, "_storer", Refusing())
        cold = serving.ask_one(ids)
    assert serving.free_blocks() == free
    again = serving.ask_one(ids)
    assert again.cached == 0
    assert serving.ask_one(ids).cached == 199
    assert again.same_as(cold)


def job(number: int) -> CopyJob:
    return CopyJob(number, (SlotCopy(0, 1, 0, (0,)),))


def test_a_full_queue_fails_stores_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from lmcache_connector_vllm import copy_thread

    monkeypatch.setattr(copy_thread, "MAX_QUEUED_JOBS", 2)
    started, gate = threading.Event(), threading.Event()

    def gather(_: CopyJob) -> int:
        started.set()
        assert gate.wait(30)
        return 1

    thread = copy_thread.CopyThread(gather)
    thread.submit(job(1), lambda: None)
    assert started.wait(30)
    for number in (2, 3, 4):
        thread.submit(job(number), lambda: None)
    assert thread.take() == ((), (4,))
    assert thread.take() is None
    gate.set()
    thread.close()
    assert thread.take() == ((1, 2, 3), ())
    thread.close()


def test_waiting_ends_with_an_outcome_or_with_nothing_to_wait_for() -> None:
    from lmcache_connector_vllm.copy_thread import CopyThread

    gate = threading.Event()
    thread = CopyThread(lambda _: int(gate.wait(30)))
    thread.wait(30)  # nothing is open
    thread.submit(job(1), lambda: None)
    thread.wait(0.01)
    assert thread.take() is None
    gate.set()
    thread.wait(30)
    assert thread.take() == ((1,), ())
    thread.close()


def test_pages_that_never_become_complete_fail_their_store() -> None:
    from lmcache_connector_vllm.copy_thread import CopyThread

    def ready() -> None:
        raise RuntimeError("planted")

    thread = CopyThread(lambda _: 1)
    thread.submit(job(1), ready)
    thread.wait(30)
    assert thread.take() == ((), (1,))
    thread.close()
