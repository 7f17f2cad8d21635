"""A hit changes nothing but the time: tokens and logits are those of a cold run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.vllm

LENGTHS = (2, 12, 31, 32, 33, 63, 64, 65, 128, 300)


def check_prompts_of_any_length(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]], *, prefix_caching: bool
) -> None:
    serving = serve(enable_prefix_caching=prefix_caching)
    for length in LENGTHS:
        ids = fresh(length)
        cold = serving.ask_one(ids)
        if prefix_caching:
            assert serving.scheduler.reset_prefix_cache()
        loaded = serving.totals()["loaded_tokens"]
        warm = serving.ask_one(ids)
        assert cold.cached == 0
        assert warm.cached == length - 1, "one token is left to compute, and no more"
        assert serving.totals()["loaded_tokens"] - loaded == length - 1
        assert warm.same_as(cold)


def check_chunked_prefill(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]], *, prefix_caching: bool
) -> None:
    serving = serve(max_num_batched_tokens=96, max_num_seqs=8, enable_prefix_caching=prefix_caching)
    prompts = [fresh(length) for length in (600, 333, 97, 480)]
    cold = [serving.cold(ids) for ids in prompts]
    if prefix_caching:
        assert serving.scheduler.reset_prefix_cache()
    together = serving.ask(prompts)
    if prefix_caching:
        assert serving.scheduler.reset_prefix_cache()
    warm = serving.ask(prompts)
    assert [answer.cached for answer in warm] == [599, 332, 96, 479]
    for reference, first, second in zip(cold, together, warm, strict=True):
        assert first.same_as(reference)
        assert second.same_as(reference)


def test_a_prompt_of_any_length_is_answered_alike(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]]
) -> None:
    check_prompts_of_any_length(serve, fresh, prefix_caching=False)


def test_chunked_prefill(serve: Callable[..., Any], fresh: Callable[[int], list[int]]) -> None:
    check_chunked_prefill(serve, fresh, prefix_caching=False)


def test_the_hit_is_counted_as_host_memory(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]]
) -> None:
    serving = serve()
    ids = fresh(300)
    serving.ask_one(ids)
    before = serving.metric("vllm:prompt_tokens_cached_by_source", source="host")
    loaded = serving.metric("vllm:lmcache_loaded_tokens")
    serving.ask_one(ids)
    assert serving.metric("vllm:prompt_tokens_cached_by_source", source="host") - before == 299
    assert serving.metric("vllm:lmcache_loaded_tokens") - loaded == 299


def test_a_shared_beginning_is_loaded_to_the_token(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]]
) -> None:
    serving = serve()
    beginning = fresh(300)
    serving.ask_one(beginning)
    # Longer than the stored tail, and diverging inside a stored chunk.
    for shared in (300, 290, 257, 256, 130, 97, 5):
        ids = beginning[:shared] + fresh(50)[1:]
        cold = serving.ask_one(ids, salt=f"computed apart: {shared}")
        warm = serving.ask_one(ids)
        assert (cold.cached, warm.cached) == (0, shared)
        assert warm.same_as(cold)


def test_generated_tokens_are_not_kept_by_default(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]]
) -> None:
    serving = serve()
    ids = fresh(40)
    answer = serving.ask_one(ids, 50)
    assert serving.ask_one([*ids, *answer.tokens]).cached == 40


def test_a_prompt_of_any_length_is_answered_alike_beside_vllms_prefix_cache(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]]
) -> None:
    check_prompts_of_any_length(serve, fresh, prefix_caching=True)


def test_chunked_prefill_beside_vllms_prefix_cache(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]]
) -> None:
    check_chunked_prefill(serve, fresh, prefix_caching=True)


def test_vllms_own_prefix_goes_before_ours(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]]
) -> None:
    serving = serve(enable_prefix_caching=True)
    ids = fresh(300)
    cold = serving.ask_one(ids)
    assert serving.scheduler.reset_prefix_cache()
    serving.ask_one(ids[:100])  # leaves 96 tokens in vLLM's own cache
    loaded = serving.totals()["loaded_tokens"]
    warm = serving.ask_one(ids)
    assert warm.cached == 299
    assert serving.totals()["loaded_tokens"] - loaded == 299 - 96
    assert warm.same_as(cold)


@pytest.mark.parametrize(("prefix_caching", "save_decode_cache"), [(True, False), (False, True)])
def test_preemption(
    serve: Callable[..., Any],
    fresh: Callable[[int], list[int]],
    prefix_caching: bool,
    save_decode_cache: bool,
) -> None:
    serving = serve(
        num_gpu_blocks_override=24,
        max_model_len=512,
        enable_prefix_caching=prefix_caching,
        lmcache={"save_decode_cache": save_decode_cache},
    )
    serving.check_preemption([fresh(200 + 9 * number) for number in range(5)], 40)
    assert serving.free_blocks() == 23


def test_generated_tokens_are_found_where_they_are_kept(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]]
) -> None:
    serving = serve(
        num_gpu_blocks_override=24, max_model_len=512, lmcache={"save_decode_cache": True}
    )
    ids = fresh(40)
    answer = serving.ask_one(ids, 50)
    follow_up = [*ids, *answer.tokens, *fresh(20)[1:]]
    cold = serving.ask_one(follow_up, salt="computed apart")
    warm = serving.ask_one(follow_up)
    # The last token was sampled, and never computed.
    assert (cold.cached, warm.cached) == (0, 89)
    assert warm.same_as(cold)


def test_a_cache_that_is_too_small_changes_no_answer(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]]
) -> None:
    # Room for eight chunks: every pair of prompts evicts what another one stored.
    serving = serve(lmcache={"max_local_cpu_size": 0.0005, "staging_size": 0.0002})
    prompts = [fresh(150 + 11 * number) for number in range(6)]
    cold = [serving.cold(ids) for ids in prompts]
    for first in (0, 2, 4, 0, 1, 3):
        answers = serving.ask(prompts[first : first + 2])
        for reference, answer in zip(cold[first:], answers, strict=False):
            assert answer.same_as(reference)
    totals = serving.totals()
    assert totals["LocalCPUBackend.evictions"] > 0
    assert totals["loaded_tokens"] > 0
