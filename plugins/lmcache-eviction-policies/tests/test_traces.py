"""How often each policy hits, on small traces that are always the same."""

from __future__ import annotations

import random
from itertools import accumulate

import pytest

CAPACITY = 100


def zipf(draw, length, keys=1000):
    """Prompts of which few return often."""
    weights = list(accumulate(1 / rank for rank in range(1, keys + 1)))
    return draw.choices(range(keys), cum_weights=weights, k=length)


def zipf_and_scans():
    """The same, with 150 prompts that never return after every 600."""
    draw, trace, fresh = random.Random(11), [], 1_000_000
    for _ in range(12):
        trace += zipf(draw, 600)
        trace += range(fresh, fresh + 150)
        fresh += 150
    return trace


def loop():
    """120 prompts, over and over."""
    return list(range(120)) * 20


def new_fashion():
    """Prompts that return often, and from the middle on others instead."""
    draw = random.Random(13)
    return zipf(draw, 4000) + [key + 10_000 for key in zipf(draw, 4000)]


def run(policy, trace):
    """Hits, and the victims in their order."""
    known, hits, victims = set(), 0, []
    for n in trace:
        key = n.to_bytes(32)
        if key in known:
            hits += 1
            policy.touch(key)
            continue
        if len(known) == CAPACITY:
            victim = policy.victim()
            policy.evict(victim)
            known.remove(victim)
            victims.append(victim)
        policy.admit(key)
        known.add(key)
    return hits / len(trace), victims


def rates(pairs, trace):
    return {name: run(make(), trace)[0] for name, (make, _) in pairs.items()}


@pytest.mark.parametrize("trace", [zipf_and_scans, loop, new_fashion])
def test_the_victims_are_those_of_the_model(pair, trace):
    make, make_model = pair
    assert run(make(), trace()) == run(make_model(), trace())


def test_a_scan_does_not_push_out_what_returns_with_s3_fifo(pairs):
    assert rates(pairs, zipf_and_scans()) == pytest.approx(
        {"LRU": 0.430, "MRU": 0.130, "FIFO": 0.397, "LFU": 0.478, "S3-FIFO": 0.522}, abs=0.001
    )


def test_a_loop_larger_than_the_cache_hits_where_the_oldest_is_not_the_next_to_go(pairs):
    assert rates(pairs, loop()) == pytest.approx(
        {"LRU": 0, "MRU": 0.792, "FIFO": 0, "LFU": 0, "S3-FIFO": 0.557}, abs=0.001
    )


def test_lfu_and_s3_fifo_follow_a_new_fashion(pairs):
    assert rates(pairs, new_fashion()) == pytest.approx(
        {"LRU": 0.576, "MRU": 0.109, "FIFO": 0.521, "LFU": 0.592, "S3-FIFO": 0.630}, abs=0.001
    )
