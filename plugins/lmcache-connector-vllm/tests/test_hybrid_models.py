"""Models whose layers do not all attend to everything: sliding windows, alone and mixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.vllm

BLOCK, CHUNK, STEP, WINDOW = 32, 256, 96, 64
HYBRID = ("--layers", "4", "--sliding-window", str(WINDOW))
WINDOWED = ("--layers", "2", "--sliding-window", str(WINDOW), "--full-every", "0")
MODELS = [pytest.param(HYBRID, id="hybrid"), pytest.param(WINDOWED, id="windows only")]


@pytest.fixture
def start(serve: Callable[..., Any], make_model: Callable[..., Any]) -> Callable[..., Any]:
    """Start an engine whose chunks fill over several steps, so that windows leave holes."""

    def make(model: tuple[str, ...] = HYBRID, **options: Any) -> Any:
        settings = {"chunk_size": CHUNK, **options.pop("lmcache", {})}
        options = {"max_num_batched_tokens": STEP, "max_num_seqs": 8, **options}
        return serve(model=make_model(*model), lmcache=settings, **options)

    return make


def forget(serving: Any) -> None:
    """Let vLLM itself forget what it has computed."""
    if serving.llm.llm_engine.vllm_config.cache_config.enable_prefix_caching:
        assert serving.scheduler.reset_prefix_cache()


def longest_hit(length: int, shared: int) -> int:
    """What a prompt may be given of another one that shares its beginning, page by page.

    The other one was computed in steps of its own; when a chunk was full, its
    pages before the window of the step's first token were gone.
    """
    pages: list[bool] = []
    for begin in range(0, length, CHUNK):
        end = min(begin + CHUNK, length)
        step = (end - 1) // STEP * STEP
        first = max(0, step - WINDOW + 1) // BLOCK
        pages += [page >= first for page in range(begin // BLOCK, -(-end // BLOCK))]
    return max(
        end
        for end in range(shared + 1)
        if all(pages[max(0, end - WINDOW + 1) // BLOCK : -(-end // BLOCK)])
    )


@pytest.mark.parametrize("prefix_caching", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_a_prompt_of_any_length_is_answered_alike(
    start: Callable[..., Any],
    fresh: Callable[[int], list[int]],
    model: tuple[str, ...],
    prefix_caching: bool,
) -> None:
    serving = start(model, enable_prefix_caching=prefix_caching)
    for length, tokens in ((2, 4), (33, 4), (65, 4), (97, 2 * WINDOW), (256, 4), (600, 8)):
        ids = fresh(length)
        cold = serving.ask_one(ids, tokens)
        forget(serving)
        warm = serving.ask_one(ids, tokens)
        assert (cold.cached, warm.cached) == (0, length - 1)
        assert warm.same_as(cold)
    assert serving.leased() == 0


@pytest.mark.parametrize("model", MODELS)
def test_a_shared_beginning_is_loaded_up_to_where_its_window_is_whole(
    start: Callable[..., Any], fresh: Callable[[int], list[int]], model: tuple[str, ...]
) -> None:
    serving = start(model)
    beginning = fresh(700)
    serving.ask_one(beginning, 1)
    hits = []
    for shared in (700, 600, 577, 576, 512, 470, 400, 256, 200, 7):
        ids = beginning[:shared] + fresh(40)[1:]
        cold = serving.ask_one(ids, salt=f"apart: {beginning[0]} {shared}")
        # Nothing of it is kept, so that each is asked of the same store.
        warm = serving.ask_one(ids, **{"lmcache.skip_save": True})
        assert warm.same_as(cold)
        hits.append((shared, warm.cached, longest_hit(700, shared)))
    assert all(cached == expected for _, cached, expected in hits), hits
    assert any(0 < cached < shared for shared, cached, _ in hits), hits
    assert any(cached == shared for shared, cached, _ in hits), hits


@pytest.mark.parametrize("prefix_caching", [False, True])
def test_prompts_together_in_chunks(
    start: Callable[..., Any], fresh: Callable[[int], list[int]], prefix_caching: bool
) -> None:
    serving = start(enable_prefix_caching=prefix_caching)
    prompts = [fresh(length) for length in (600, 333, 97, 480)]
    cold = [serving.cold(ids, 20) for ids in prompts]
    forget(serving)
    together = serving.ask(prompts, 20)
    forget(serving)
    warm = serving.ask(prompts, 20)
    assert all(answer.cached > 90 for answer in warm)
    for reference, first, second in zip(cold, together, warm, strict=True):
        assert first.same_as(reference)
        assert second.same_as(reference)


@pytest.mark.parametrize(("prefix_caching", "save_decode_cache"), [(True, False), (False, True)])
def test_preemption(
    start: Callable[..., Any],
    fresh: Callable[[int], list[int]],
    prefix_caching: bool,
    save_decode_cache: bool,
) -> None:
    serving = start(
        num_gpu_blocks_override=50,
        max_model_len=512,
        enable_prefix_caching=prefix_caching,
        lmcache={"save_decode_cache": save_decode_cache, "chunk_size": 64},
    )
    serving.check_preemption([fresh(200 + 9 * number) for number in range(4)], 50)
    assert serving.free_blocks() == 49


@pytest.mark.parametrize("prefix_caching", [False, True])
def test_a_conversation_that_goes_on_past_its_windows(
    start: Callable[..., Any], fresh: Callable[[int], list[int]], prefix_caching: bool
) -> None:
    serving = start(enable_prefix_caching=prefix_caching, lmcache={"save_decode_cache": True})
    ids, known = fresh(150), 0
    for turn in range(3):
        cold = serving.ask_one(ids, 70, salt=f"apart: {ids[0]} {turn}")
        answer = serving.ask_one(ids, 70)
        assert answer.same_as(cold)
        assert answer.cached >= known
        # The last token was sampled, and never computed.
        known = len(ids) + 70 - 1
        ids = [*ids, *answer.tokens, *fresh(30)[1:]]
        if turn == 1:
            forget(serving)


def test_window_blocks_are_held_until_they_are_copied(
    start: Callable[..., Any], fresh: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window goes on while the copy of what it leaves behind still waits."""
    serving = start(num_gpu_blocks_override=90, max_model_len=768)
    ids, others = fresh(600), [fresh(300) for _ in range(3)]
    cold = serving.cold(ids)
    free = serving.free_blocks()
    gate = serving.hold_stores(monkeypatch)
    engine = serving.llm.llm_engine
    engine.add_request("long", {"prompt_token_ids": ids}, serving.sampling(8))
    for _ in range(5):
        engine.step()
    assert serving.side.holds_blocks
    for number, other in enumerate(others):
        engine.add_request(f"other {number}", {"prompt_token_ids": other}, serving.sampling(4))
    for _ in range(12):
        engine.step()
    gate.set()
    while engine.has_unfinished_requests():
        engine.step()
    serving.settle()
    assert serving.free_blocks() == free
    warm = serving.ask_one(ids)
    assert warm.cached == 599
    assert warm.same_as(cold)


def test_a_store_below_a_memory_too_small_for_the_prompt(
    start: Callable[..., Any], fresh: Callable[[int], list[int]], shelf: Any
) -> None:
    tiers = [
        {"backend": "LocalCPUBackend", "max_size": 0.001},
        {"backend": "shelf", "max_size": 0.1},
    ]
    serving = start(lmcache={"storage": tiers, "staging_size": 0.0005, "chunk_size": 64})
    ids = fresh(900)
    cold = serving.ask_one(ids)
    warm = serving.ask_one(ids)
    assert 0 < warm.cached < 899, "memory and staging are too small for all of it"
    assert warm.same_as(cold)
    promoted = serving.totals()["promoted_chunks"]
    assert promoted > 0
    short = fresh(300)
    cold = serving.ask_one(short)
    for _ in range(2):
        serving.ask_one(fresh(700))
    warm = serving.ask_one(short)
    assert warm.cached >= 255, "the tail of an odd length does not leave memory"
    assert warm.same_as(cold)
    assert serving.totals()["shelf.damaged_frames"] == 0


def test_windows_come_back_from_a_disk_after_a_restart(
    start: Callable[..., Any], fresh: Callable[[int], list[int]], engines: Any, tmp_path: Any
) -> None:
    tiers = [
        {"backend": "LocalCPUBackend", "max_size": 0.01},
        {"backend": "LocalDiskBackend", "max_size": 0.1, "path": str(tmp_path)},
    ]
    settings = {"storage": tiers, "staging_size": 0.001}
    ids = fresh(600)
    cold = start(lmcache=settings).ask_one(ids)
    engines.stop()
    serving = start(lmcache=settings)
    warm = serving.ask_one(ids, **{"lmcache.skip_save": True})
    assert warm.cached == 599
    assert warm.same_as(cold)
    for shared in (500, 440, 300, 200):
        other = ids[:shared] + fresh(40)[1:]
        cold = serving.ask_one(other, salt=f"apart: {ids[0]} {shared}")
        warm = serving.ask_one(other, **{"lmcache.skip_save": True})
        assert warm.same_as(cold)
        assert warm.cached == longest_hit(600, shared)
    assert serving.totals()["LocalDiskBackend.damaged_frames"] == 0
    engines.stop()
