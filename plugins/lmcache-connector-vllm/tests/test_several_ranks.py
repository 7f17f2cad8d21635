"""Real engines of two ranks: two processes, each with a half of the model."""

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

WINDOW = 96
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
def halves(serve: Callable[..., Any], make_model: Callable[..., Path], faults: Faults) -> Any:
    """Two tensor ranks, each with half of every layer's heads; some layers have windows."""
    return serve(
        model=make_model("--layers", "4", "--sliding-window", str(WINDOW)),
        tensor_parallel_size=2,
        lmcache={"max_local_cpu_size": 0.006, "staging_size": 0.002},
    )


@pytest.fixture
def stages(serve: Callable[..., Any], faults: Faults) -> Any:
    """Two pipeline stages of one layer each, with two steps under way at once."""
    return serve(pipeline_parallel_size=2, transfer={"kv_load_failure_policy": "recompute"})


def check_warm_is_cold(serving: Any, ids: list[int]) -> None:
    cold = serving.ask_one(ids)
    warm = serving.ask_one(ids)
    assert (cold.cached, warm.cached) == (0, len(ids) - 1)
    assert warm.same_as(cold)


def check_prompts(serving: Any, fresh: Callable[[int], list[int]]) -> None:
    for length in (12, 32, 33, 64, 300):
        check_warm_is_cold(serving, fresh(length))
    # In several steps each, and in steps that several share.
    prompts = [fresh(length) for length in (600, 333, 97, 480)]
    cold = [serving.cold(ids) for ids in prompts]
    together, warm = serving.ask(prompts), serving.ask(prompts)
    assert [answer.cached for answer in warm] == [599, 332, 96, 479]
    for reference, first, second in zip(cold, together, warm, strict=True):
        assert first.same_as(reference)
        assert second.same_as(reference)
    beginning = prompts[0]
    for shared in (590, 450, 300, 130):
        ids = beginning[:shared] + fresh(30)[1:]
        apart = serving.ask_one(ids, salt=f"apart: {beginning[0]} {shared}")
        assert serving.ask_one(ids).same_as(apart)
    assert serving.totals()["failed_jobs"] == 0


def test_halves_of_the_heads(halves: Any, fresh: Callable[[int], list[int]]) -> None:
    check_prompts(halves, fresh)


def test_one_rank_has_half_of_each_page(halves: Any) -> None:
    namespace = halves.engine.tiers.namespace
    groups = halves.engine.tiers.geometry.groups
    assert namespace.ranks == 2
    assert namespace.extra["tensor_parallel_size"] == "2"
    assert sum(namespace.page_bytes) == sum(group.block_bytes for group in groups)
    layers = len(namespace.page_bytes) // 2
    assert namespace.page_bytes[:layers] == namespace.page_bytes[layers:]


def test_a_pin_holds_on_all_ranks(halves: Any, fresh: Callable[[int], list[int]]) -> None:
    ids = fresh(200)
    cold = halves.ask_one(ids)
    pins = halves.engine.tiers.pins
    request = PinRequest(
        pin_id="held", version=1, location="LocalCPUBackend", tokens=tokens_to_bytes(ids)
    )
    report = pins.pin(request)
    assert (report.state, report.tokens_pinned) == (PinState.ACTIVE, 200)
    other = fresh(200)
    halves.ask_one(other)
    for _ in range(3):
        halves.ask([fresh(500) for _ in range(8)], 1)
    assert halves.ask_one(other).cached == 0
    warm = halves.ask_one(ids)
    assert warm.cached == 199
    assert warm.same_as(cold)
    pins.unpin("held", 1)


def test_aborts_leave_nothing(halves: Any, fresh: Callable[[int], list[int]]) -> None:
    ids = fresh(330)
    cold = halves.cold(ids)
    free = halves.free_blocks()
    engine = halves.llm.llm_engine
    for steps in range(5):
        engine.add_request("goes", {"prompt_token_ids": ids}, halves.sampling(8))
        for _ in range(steps):
            engine.step()
        engine.abort_request(["goes"])
        halves.settle()
        assert halves.side.open_jobs == 0
        assert halves.leased() == 0
        assert halves.free_blocks() == free
    assert halves.ask_one(ids).same_as(cold)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("direction", ["gather", "scatter"])
def test_the_comparison_notices_a_copy_that_one_rank_drops(
    halves: Any,
    faults: Faults,
    fresh: Callable[[int], list[int]],
    direction: str,
    rank: int,
) -> None:
    with faults.plant(rank, direction, "drop"), pytest.raises(AssertionError):
        check_warm_is_cold(halves, fresh(300))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_store_that_fails_on_one_rank_is_a_miss(
    halves: Any, faults: Faults, fresh: Callable[[int], list[int]], rank: int
) -> None:
    ids, free, failed = fresh(200), halves.free_blocks(), halves.totals()["failed_jobs"]
    with faults.plant(rank, "gather", "fail"):
        cold = halves.ask_one(ids)
    assert halves.totals()["failed_jobs"] > failed
    assert halves.free_blocks() == free
    again, warm = halves.ask_one(ids), halves.ask_one(ids)
    assert (cold.cached, again.cached, warm.cached) == (0, 0, 199)
    assert again.same_as(cold)
    assert warm.same_as(cold)


def test_what_one_rank_has_not_copied_yet_is_not_found(
    halves: Any, faults: Faults, fresh: Callable[[int], list[int]]
) -> None:
    ids = fresh(200)
    with faults.plant(1, "gather", "lag"):
        outputs = [
            halves.llm.generate([{"prompt_token_ids": ids}], halves.sampling(8), use_tqdm=False)[0]
            for _ in range(2)
        ]
        assert [output.num_cached_tokens for output in outputs] == [0, 0]
        assert halves.side.open_jobs > 0
        assert halves.side.holds_blocks
    halves.settle()
    assert not halves.side.holds_blocks
    warm = halves.ask_one(ids)
    assert warm.cached == 199
    assert warm.tokens == tuple(outputs[0].outputs[0].token_ids)


def test_stages_of_a_pipeline(stages: Any, fresh: Callable[[int], list[int]]) -> None:
    check_prompts(stages, fresh)
    namespace = stages.engine.tiers.namespace
    assert (namespace.ranks, namespace.extra["pipeline_parallel_size"]) == (2, "2")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_load_that_fails_in_one_stage_is_computed(
    stages: Any, faults: Faults, fresh: Callable[[int], list[int]], rank: int
) -> None:
    ids, other = fresh(200), fresh(100)
    cold, other_cold = stages.ask([ids, other])
    with faults.plant(rank, "scatter", "fail"):
        for reference, answer in zip((cold, other_cold), stages.ask([ids, other]), strict=True):
            assert answer.same_as(reference)
    assert stages.leased() == 0
    assert stages.ask_one(ids).same_as(cold)
