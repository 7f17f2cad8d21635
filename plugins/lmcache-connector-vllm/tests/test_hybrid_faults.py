"""The comparison of answers notices what is easily done wrong with several KV groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

pytestmark = pytest.mark.vllm

WINDOW, BLOCK = 96, 32


def check_beginnings(serving: Any, fresh: Callable[[int], list[int]]) -> None:
    """Hits that end anywhere in a prompt several windows long change no answer."""
    beginning = fresh(500)
    cold = serving.ask_one(beginning)
    assert serving.ask_one(beginning).same_as(cold)
    for shared in (460, 390, 300, 230):
        ids = beginning[:shared] + fresh(30)[1:]
        cold = serving.ask_one(ids, salt=f"apart: {beginning[0]} {shared}")
        warm = serving.ask_one(ids, **{"lmcache.skip_save": True})
        assert warm.same_as(cold)


@pytest.fixture
def hybrid(serve: Callable[..., Any], make_model: Callable[..., Any]) -> Any:
    return serve(
        model=make_model("--layers", "4", "--sliding-window", str(WINDOW)),
        lmcache={"chunk_size": 256},
        max_num_batched_tokens=96,
        max_num_seqs=8,
    )


def test_nothing_planted(hybrid: Any, fresh: Callable[[int], list[int]]) -> None:
    check_beginnings(hybrid, fresh)


@pytest.mark.parametrize("plan", ["plan_load", "plan_store"])
def test_the_blocks_of_group_0_for_all_groups_are_noticed(
    hybrid: Any, fresh: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch, plan: str
) -> None:
    right = getattr(hybrid.engine, plan)
    # In vLLM's order: the windows first, the layer that sees everything last.
    tables_at = {"plan_load": 3, "plan_store": 2}[plan]

    def wrong(*arguments: Any, **options: Any) -> Any:
        changed = list(arguments)
        tables = changed[tables_at]
        changed[tables_at] = [tables[0]] * len(tables)
        return right(*changed, **options)

    monkeypatch.setattr(hybrid.engine, plan, wrong)
    with pytest.raises(AssertionError, match="same_as"):
        check_beginnings(hybrid, fresh)


def test_a_window_that_is_held_to_be_a_block_shorter_is_noticed(
    hybrid: Any, fresh: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = hybrid.engine
    rule, geometry = engine.tiers.memory._rule, engine.tiers.geometry
    shorter = [(number, tokens, window - BLOCK) for number, tokens, window in rule._windowed]
    groups = tuple(
        msgspec.structs.replace(group, window=group.window and group.window - BLOCK)
        for group in geometry.groups
    )
    monkeypatch.setattr(rule, "_windowed", shorter)
    monkeypatch.setattr(geometry, "groups", groups)
    with pytest.raises(AssertionError, match="same_as"):
        check_beginnings(hybrid, fresh)


def test_pages_that_go_to_the_block_before_their_own_are_noticed(
    hybrid: Any, fresh: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    mover = hybrid.worker._loader

    class Shifting:
        def scatter(self, copies: Any) -> Any:
            return mover.scatter([shifted(copy) for copy in copies])

    def shifted(copy: Any) -> Any:
        if copy.group or len(copy.block_ids) < 2:
            return copy
        return msgspec.structs.replace(
            copy, first_block=copy.first_block + 1, block_ids=copy.block_ids[:-1]
        )

    monkeypatch.setattr(hybrid.worker, "_loader", Shifting())
    with pytest.raises(AssertionError, match="same_as"):
        check_beginnings(hybrid, fresh)


def test_a_load_that_fails_stops_the_server_and_answers_nothing(
    hybrid: Any, fresh: Callable[[int], list[int]], engines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmcache_connector_vllm.unreadable import UnreadableError
    from lmcache_core.errors import LMCacheError

    class Refusing:
        def scatter(self, copies: Any) -> int:
            raise LMCacheError("planted")

        def close(self) -> None:
            pass

    ids = fresh(300)
    hybrid.ask_one(ids)
    try:
        with monkeypatch.context() as planted:
            planted.setattr(hybrid.worker, "_loader", Refusing())
            with pytest.raises(UnreadableError, match="several KV cache groups"):
                hybrid.ask_one(ids)
    finally:
        engines.stop()
