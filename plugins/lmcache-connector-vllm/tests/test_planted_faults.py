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
    from lmcache_core.engine.index import Found, PrefixIndex

    serving = serve()
    find = PrefixIndex.find

    def find_more(self: Any, chain: Any, limit: int) -> Any:
        found = find(self, chain, limit)
        more = found.tokens % 64 and found.tokens < limit
        return Found(found.entries, found.tokens + bool(more))

    monkeypatch.setattr(PrefixIndex, "find", find_more)
    with pytest.raises(AssertionError):
        check_warm_is_cold(serving, fresh(length))
