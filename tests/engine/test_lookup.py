"""Look-ups answer to the token, and what they name can be loaded."""

from __future__ import annotations

import pytest

from lmcache_core.keys import Scope
from tests.engine.rig import CHUNK_TOKENS, SLOT_BYTES, Rig


@pytest.fixture
def rig():
    with Rig() as rig:
        yield rig


@pytest.mark.parametrize("length", [1, 3, 4, 5, 12, 15, 16, 17, 31, 32, 33, 50])
def test_a_prompt_of_any_length_is_found_at_its_length(rig, length):
    tokens = list(range(100, 100 + length))
    assert rig.serve(tokens) == 0
    assert rig.hit(tokens) == length


def test_a_warm_request_leaves_one_token_to_compute(rig):
    tokens = list(range(12))
    rig.serve(tokens)
    assert rig.serve(tokens) == 11


def test_nothing_is_found_that_was_not_stored(rig):
    rig.serve(list(range(20)))
    assert rig.hit([7, 8, 9]) == 0


@pytest.mark.parametrize("shared", [1, 2, 5, 15, 16, 17, 30])
def test_prompts_that_diverge_share_exactly_what_they_have_in_common(rig, shared):
    first = list(range(40))
    rig.serve(first)
    second = first[:shared] + [9000 + i for i in range(20)]
    assert rig.serve(second) == shared


def test_a_longer_prompt_takes_the_place_of_the_tail_it_covers(rig):
    short, long = list(range(5)), list(range(30))
    rig.serve(short)
    entries = rig.engine.tiers.status()[0].entries
    assert rig.serve(long) == 5
    assert rig.engine.tiers.status()[0].entries == entries + 1
    assert rig.hit(short) == 5
    assert rig.hit(long) == 30


def test_many_children_of_one_parent_are_told_apart():
    with Rig(chunks=64) as rig:
        head = list(range(CHUNK_TOKENS))
        prompts = [[*head, 1000 + i, *range(i, i + 7)] for i in range(40)]
        for prompt in prompts:
            rig.serve(prompt)
        for prompt in prompts:
            assert rig.hit(prompt) == len(prompt)
        assert rig.hit([*head, 1000, 55]) == CHUNK_TOKENS + 1


@pytest.mark.parametrize(
    "other",
    [
        Scope.of(cache_salt="b"),
        Scope.of(adapter="lora"),
        Scope.of(tags={"tenant": "b"}),
        Scope.of(),
    ],
)
def test_unlike_scopes_never_meet(rig, other):
    tokens = list(range(20))
    rig.serve(tokens, Scope.of(cache_salt="a"))
    assert rig.hit(tokens, other) == 0
    assert rig.hit(tokens, Scope.of(cache_salt="a")) == 20


def test_storing_what_is_there_copies_nothing(rig):
    tokens = list(range(33))
    rig.serve(tokens)
    name = rig.begin(tokens)
    assert rig.engine.plan_store(name, 33, [rig.blocks_for(33)], final=True) is None


def test_two_requests_for_one_prompt_write_it_once(rig):
    tokens = list(range(20))
    first, second = rig.begin(tokens), rig.begin(tokens)
    job = rig.engine.plan_store(first, 20, [rig.blocks_for(20)], final=True)
    assert job is not None
    assert rig.engine.plan_store(second, 20, [rig.blocks_for(20)], final=True) is None


def test_a_chunk_cannot_be_found_before_its_copy_is_acknowledged(rig):
    tokens = list(range(20))
    rig.serve(tokens, acknowledge=False)
    assert rig.hit(tokens) == 0


def test_a_failed_copy_is_dropped_and_its_room_given_back(rig):
    tokens = list(range(20))
    name = rig.begin(tokens)
    job = rig.engine.plan_store(name, 20, [rig.blocks_for(20)], final=True)
    rig.engine.acknowledge([], failed=[job.job_id])
    rig.engine.finish(name)
    assert rig.hit(tokens) == 0
    for start in range(0, 800, 100):
        rig.serve(list(range(start, start + CHUNK_TOKENS)))
    assert rig.engine.tiers.status()[0].entries == 8


def test_the_least_recently_used_goes_first_and_a_chain_goes_from_its_end():
    with Rig(chunks=4) as rig:
        first, second = list(range(32)), list(range(500, 532))
        rig.serve(first)
        rig.serve(second)
        assert rig.hit(first) == 32
        rig.serve(list(range(900, 916)))
        assert rig.hit(second) == 16
        assert rig.hit(first) == 32


def test_what_a_request_has_matched_is_not_evicted_under_it():
    with Rig(chunks=2) as rig:
        tokens = list(range(32))
        rig.serve(tokens)
        name = rig.begin(tokens)
        assert rig.engine.match(name, 32).tokens == 32
        rig.serve(list(range(700, 732)))
        assert rig.engine.match(name, 32).tokens == 32
        job = rig.engine.plan_load(name, 0, 32, [rig.blocks_for(32)])
        rig.engine.finish(name)
        rig.serve(list(range(800, 832)))
        assert rig.hit(list(range(800, 832))) == 0, "the load still reads both slots"
        rig.engine.acknowledge([job.job_id])
        rig.serve(list(range(800, 832)))
        assert rig.hit(list(range(800, 832))) == 32


@pytest.mark.parametrize("local", [4, 16, 20, 32, 36])
def test_a_load_starts_where_the_local_hit_ends(rig, local):
    tokens = list(range(45))
    rig.serve(tokens)
    name = rig.begin(tokens)
    rig.engine.match(name, 44)
    blocks = rig.blocks_for(45)
    job = rig.engine.plan_load(name, local, 44, [blocks])
    moved = [block for copy in job.copies for block in copy.block_ids]
    assert moved == blocks[local // 4 : 11]
    rig.engine.acknowledge([job.job_id])
    rig.engine.finish(name)
    assert rig.serve(tokens, local=local) == 44


def test_a_reset_hides_everything_older_and_deletes_nothing(rig):
    tokens = list(range(20))
    rig.serve(tokens)
    used = rig.engine.tiers.status()[0].used_bytes
    rig.engine.reset()
    assert rig.hit(tokens) == 0
    assert rig.engine.tiers.status()[0].used_bytes == used
    assert rig.serve(tokens) == 0
    assert rig.hit(tokens) == 20


def test_a_request_that_lived_through_a_reset_is_not_stored(rig):
    tokens = list(range(20))
    name = rig.begin(tokens)
    rig.engine.reset()
    assert rig.engine.plan_store(name, 20, [rig.blocks_for(20)], final=True) is None


def test_a_worker_that_writes_after_every_deadline_changes_no_other_chunk():
    with Rig(chunks=8, overrides={"job_timeout_seconds": 0.0}) as rig:
        tokens = list(range(32))
        name = rig.begin(tokens)
        blocks = rig.blocks_for(32)
        frozen = rig.engine.plan_store(name, 32, [blocks], final=True)
        rig.engine.finish(name)
        assert rig.engine.counters()["stranded_bytes"] == 2 * SLOT_BYTES
        prompts = [list(range(base, base + 16)) for base in range(1000, 2200, 100)]
        for prompt in prompts:
            rig.serve(prompt)
        kept = [prompt for prompt in prompts if rig.hit(prompt) == 16]
        assert len(kept) == 6, "two slots of eight are stranded"
        rig.store(frozen)  # the worker goes on: all it writes is another tenant's bytes
        for prompt in kept:
            assert rig.serve(prompt) == 15
        rig.engine.acknowledge([], failed=[frozen.job_id])
        assert rig.engine.counters()["stranded_bytes"] == 0


def test_no_store_is_planned_while_too_much_is_stranded():
    with Rig(chunks=8, staging_chunks=1, overrides={"job_timeout_seconds": 0.0}) as rig:
        name = rig.begin(list(range(32)))
        frozen = rig.engine.plan_store(name, 32, [rig.blocks_for(32)], final=True)
        other = rig.begin(list(range(500, 516)))
        blocks = rig.blocks_for(16)
        assert rig.engine.plan_store(other, 16, [blocks], final=True) is None
        rig.store(frozen)
        rig.engine.acknowledge([frozen.job_id])
        assert rig.engine.plan_store(other, 16, [blocks], final=True) is not None
