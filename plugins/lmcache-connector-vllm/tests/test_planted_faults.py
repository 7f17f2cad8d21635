"""The comparison of answers notices what it is there for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

pytestmark = pytest.mark.vllm


def check_warm_is_cold(serving: Any, ids: list[int]) -> None:
    """A hit of a whole prompt, and of its beginning, changes no answer."""
    cold = serving.ask_one(ids)
    warm = serving.ask_one(ids)
    assert warm.cached == len(ids) - 1
    assert warm.same_as(cold)
    longer = [*ids, *reversed(ids[:20])]
    apart = serving.ask_one(longer, salt=f"apart: {ids[0]}")
    assert serving.ask_one(longer).same_as(apart)


def shifted(copies: Any) -> Any:
    """The same copies, but each page of the first goes with the block before its own.

    Two pages that are only swapped change nothing: keys carry their positions.
    """
    first, *others = copies
    moved = msgspec.structs.replace(first, first_block=1, block_ids=first.block_ids[:-1])
    return (moved, *others)


@pytest.mark.parametrize("length", [20, 64, 90, 300])
def test_nothing_planted(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]], length: int
) -> None:
    check_warm_is_cold(serve(), fresh(length))


@pytest.mark.parametrize("direction", ["gather", "scatter"])
@pytest.mark.parametrize("length", [64, 90, 300])
def test_a_block_shifted_by_one_is_noticed(
    serve: Callable[..., Any],
    fresh: Callable[[int], list[int]],
    monkeypatch: pytest.MonkeyPatch,
    direction: str,
    length: int,
) -> None:
    serving = serve()
    attribute = "_storer" if direction == "gather" else "_loader"
    mover = getattr(serving.worker, attribute)

    class Shifting:
        def gather(self, copies: Any) -> Any:
            return mover.gather(shifted(copies))

        def scatter(self, copies: Any) -> Any:
            return mover.scatter(shifted(copies))

    monkeypatch.setattr(serving.worker, attribute, Shifting())
    with pytest.raises(AssertionError):
        check_warm_is_cold(serving, fresh(length))


@pytest.mark.parametrize("length", [20, 90, 300])
def test_a_tail_that_claims_one_token_too_many_is_noticed(
    serve: Callable[..., Any],
    fresh: Callable[[int], list[int]],
    monkeypatch: pytest.MonkeyPatch,
    length: int,
) -> None:
    from lmcache_core.engine.chunks.index import Found, PrefixIndex

    serving = serve()
    find = PrefixIndex.find

    def find_more(self: Any, chain: Any, limit: int) -> Any:
        found = find(self, chain, limit)
        more = found.tokens % 64 and found.tokens < limit
        return Found(found.entries, found.tokens + bool(more))

    monkeypatch.setattr(PrefixIndex, "find", find_more)
    with pytest.raises(AssertionError):
        check_warm_is_cold(serving, fresh(length))


def check_new_weights_are_answered_from(serving: Any, ids: list[int]) -> None:
    """What was stored under other weights is not read once they have changed."""
    before = serving.ask_one(ids)
    runner = serving.core.model_executor.driver_worker.worker.model_runner
    weights = [parameter for name, parameter in runner.model.named_parameters() if "layers" in name]
    try:
        for parameter in weights:
            parameter.data.neg_()
        assert serving.scheduler.reset_prefix_cache(reset_connector=True)
        changed = serving.ask_one(ids)
        assert not changed.same_as(before), "the weights make no difference"
        apart = serving.ask_one(ids, salt=f"apart: {ids[0]}")
        assert changed.same_as(apart)
    finally:
        for parameter in weights:
            parameter.data.neg_()
        serving.connector.reset_cache()


def test_weights_that_change_in_place(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]]
) -> None:
    check_new_weights_are_answered_from(serve(), fresh(100))


def test_a_stale_epoch_is_noticed(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmcache_core.engine.tiers.stack import TierStack

    serving = serve()
    monkeypatch.setattr(TierStack, "raise_epoch", lambda self: self.namespace.weights_epoch)
    with pytest.raises(AssertionError):
        check_new_weights_are_answered_from(serving, fresh(100))
