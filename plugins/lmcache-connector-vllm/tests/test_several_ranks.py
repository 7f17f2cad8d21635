"""Real servers of two ranks: two processes, each with a half of the model."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lmcache_core.api.pins import PinRequest, PinState
from lmcache_core.keys import tokens_to_bytes

pytestmark = pytest.mark.vllm

ENTRY_POINT = "[vllm.general_plugins]\nlmcache_rank_faults = rank_faults:register\n"


class Faults:
    """What the ranks do wrong, told to them through a file."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "fault"
        self.file.write_text("")

    @contextmanager
    def plant(self, rank: int, direction: str, what: str) -> Iterator[None]:
        whole = self.file.with_suffix(".new")
        whole.write_text(f"{rank} {direction} {what}")
        whole.replace(self.file)
        try:
            yield
        finally:
            self.file.write_text("")


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory, engines: Any) -> Iterator[Faults]:
    """Install the plugin that plants faults, for the ranks of this module's engines."""
    folder = tmp_path_factory.mktemp("rank_faults")
    info = folder / "lmcache_rank_faults-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lmcache-rank-faults\nVersion: 0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINT)
    (folder / "rank_faults.py").write_text((Path(__file__).parent / "rank_faults.py").read_text())
    planted = Faults(folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LMCACHE_RANK_FAULTS", str(planted.file))
        # Ranks are spawned with this process's path.
        patched.setattr(sys, "path", [*sys.path, str(folder)])
        patched.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        yield planted
        engines.stop()


@pytest.fixture
def two_ranks(serve: Callable[..., Any], faults: Faults) -> Any:
    """An engine with tensor parallel 2; the same for all tests of this module."""
    return serve(
        tensor_parallel_size=2,
        lmcache={"max_local_cpu_size": 0.006, "staging_size": 0.002},
        transfer={"kv_load_failure_policy": "recompute"},
    )


def check_warm_is_cold(serving: Any, ids: list[int]) -> None:
    cold = serving.ask_one(ids)
    warm = serving.ask_one(ids)
    assert (cold.cached, warm.cached) == (0, len(ids) - 1)
    assert warm.same_as(cold)


def test_prompts_of_any_length_alone_and_together(
    two_ranks: Any, fresh: Callable[[int], list[int]]
) -> None:
    for length in (12, 32, 33, 64, 300):
        check_warm_is_cold(two_ranks, fresh(length))
    # In several steps each, and in steps that several share.
    prompts = [fresh(length) for length in (600, 333, 97, 480)]
    cold = [two_ranks.cold(ids) for ids in prompts]
    together, warm = two_ranks.ask(prompts), two_ranks.ask(prompts)
    assert [answer.cached for answer in warm] == [599, 332, 96, 479]
    for reference, first, second in zip(cold, together, warm, strict=True):
        assert first.same_as(reference)
        assert second.same_as(reference)
    assert two_ranks.totals()["failed_jobs"] == 0


def test_one_rank_has_half_of_each_page(two_ranks: Any) -> None:
    namespace = two_ranks.engine.tiers.namespace
    (group,) = two_ranks.engine.tiers.geometry.groups
    assert namespace.ranks == 2
    assert namespace.extra["tensor_parallel_size"] == "2"
    assert sum(namespace.page_bytes) == group.block_bytes
    layers = len(namespace.page_bytes) // 2
    assert namespace.page_bytes[:layers] == namespace.page_bytes[layers:]


def test_a_pin_holds_on_all_ranks(two_ranks: Any, fresh: Callable[[int], list[int]]) -> None:
    ids = fresh(200)
    cold = two_ranks.ask_one(ids)
    pins = two_ranks.engine.tiers.pins
    request = PinRequest(
        pin_id="held", version=1, location="LocalCPUBackend", tokens=tokens_to_bytes(ids)
    )
    report = pins.pin(request)
    assert (report.state, report.tokens_pinned) == (PinState.ACTIVE, 200)
    other = fresh(200)
    two_ranks.ask_one(other)
    for _ in range(3):
        two_ranks.ask([fresh(500) for _ in range(8)], 1)
    assert two_ranks.ask_one(other).cached == 0
    warm = two_ranks.ask_one(ids)
    assert warm.cached == 199
    assert warm.same_as(cold)
    pins.unpin("held", 1)


def test_aborts_leave_nothing(two_ranks: Any, fresh: Callable[[int], list[int]]) -> None:
    ids = fresh(330)
    cold = two_ranks.cold(ids)
    free = two_ranks.free_blocks()
    engine = two_ranks.llm.llm_engine
    for steps in range(5):
        engine.add_request("goes", {"prompt_token_ids": ids}, two_ranks.sampling(8))
        for _ in range(steps):
            engine.step()
        engine.abort_request(["goes"])
        two_ranks.settle()
        assert two_ranks.side.open_jobs == 0
        assert two_ranks.leased() == 0
        assert two_ranks.free_blocks() == free
    assert two_ranks.ask_one(ids).same_as(cold)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("direction", ["gather", "scatter"])
def test_the_comparison_notices_a_copy_that_one_rank_drops(
    two_ranks: Any,
    faults: Faults,
    fresh: Callable[[int], list[int]],
    direction: str,
    rank: int,
) -> None:
    with faults.plant(rank, direction, "drop"), pytest.raises(AssertionError):
        check_warm_is_cold(two_ranks, fresh(300))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_store_that_fails_on_one_rank_is_a_miss(
    two_ranks: Any, faults: Faults, fresh: Callable[[int], list[int]], rank: int
) -> None:
    ids, free, failed = fresh(200), two_ranks.free_blocks(), two_ranks.totals()["failed_jobs"]
    with faults.plant(rank, "gather", "fail"):
        cold = two_ranks.ask_one(ids)
    assert two_ranks.totals()["failed_jobs"] > failed
    assert two_ranks.free_blocks() == free
    again, warm = two_ranks.ask_one(ids), two_ranks.ask_one(ids)
    assert (cold.cached, again.cached, warm.cached) == (0, 0, 199)
    assert again.same_as(cold)
    assert warm.same_as(cold)


def test_what_one_rank_has_not_copied_yet_is_not_found(
    two_ranks: Any, faults: Faults, fresh: Callable[[int], list[int]]
) -> None:
    ids = fresh(200)
    with faults.plant(1, "gather", "lag"):
        outputs = [
            two_ranks.llm.generate(
                [{"prompt_token_ids": ids}], two_ranks.sampling(8), use_tqdm=False
            )[0]
            for _ in range(2)
        ]
        assert [output.num_cached_tokens for output in outputs] == [0, 0]
        assert two_ranks.side.open_jobs > 0
        assert two_ranks.side.holds_blocks
    two_ranks.settle()
    assert not two_ranks.side.holds_blocks
    warm = two_ranks.ask_one(ids)
    assert warm.cached == 199
    assert warm.tokens == tuple(outputs[0].outputs[0].token_ids)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_load_that_fails_on_one_rank_is_computed(
    two_ranks: Any, faults: Faults, fresh: Callable[[int], list[int]], rank: int
) -> None:
    ids, other = fresh(200), fresh(100)
    cold, other_cold = two_ranks.ask([ids, other])
    with faults.plant(rank, "scatter", "fail"):
        for reference, answer in zip((cold, other_cold), two_ranks.ask([ids, other]), strict=True):
            assert answer.same_as(reference)
    assert two_ranks.leased() == 0
    assert two_ranks.ask_one(ids).same_as(cold)
