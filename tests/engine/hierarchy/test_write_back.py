"""A tier that is written back to is given what memory evicts."""

from __future__ import annotations

from lmcache_core.api import Capability, PutStatus
from lmcache_core.config import TierRules
from lmcache_core.keys import Scope
from tests.engine.hierarchy.stores import (
    BACK,
    THROUGH,
    bounds,
    counters,
    fill,
    held,
    nothing_is_under_way,
    prompt,
    settle,
)
from tests.engine.rig import BLOCK_TOKENS, CHUNK_TOKENS, SLOT_BYTES
from tests.engine.test_pins import MEMORY
from tests.engine.test_storage_tier import LONG
from tests.engine.test_storage_tier import settle as settle_writes


def test_a_tier_that_is_written_back_to_is_given_what_memory_evicts_and_no_more(tiers):
    rig, near, far = tiers(near=BACK, far=BACK)
    fill(rig, 4)
    assert near.puts == far.puts == 0
    fill(rig, 2, first=5)
    assert (near.puts, far.puts) == (2, 0)
    assert counters(rig, "near")["demoted_frames"] == 2
    assert held(rig, prompt(1)) == {MEMORY: 0, "near": CHUNK_TOKENS, "far": 0}
    assert rig.hit(prompt(1)) == CHUNK_TOKENS
    settle(rig)
    assert nothing_is_under_way(rig)


def test_what_is_below_already_is_evicted_without_a_write(tiers):
    rig, near, _ = tiers(near=BACK)
    fill(rig, 8)
    assert near.puts == 4
    for number in range(1, 9):
        assert rig.hit(prompt(number)) == CHUNK_TOKENS
        settle(rig)
    assert near.puts == 8
    for number in range(1, 9):
        rig.hit(prompt(number))
        settle(rig)
    assert near.puts == 8
    assert counters(rig, "near")["demotions_dropped"] == 0


def test_a_chunk_that_the_upper_tier_does_not_take_goes_to_the_one_below(tiers):
    rig, _, _ = tiers(near=TierRules(write="back", min_tokens=CHUNK_TOKENS), far=BACK)
    short = list(range(7000, 7000 + 2 * BLOCK_TOKENS))
    rig.serve(short)
    fill(rig, 6)
    assert held(rig, short)["far"] == len(short)
    assert held(rig, prompt(1)) == {MEMORY: 0, "near": CHUNK_TOKENS, "far": 0}
    assert counters(rig, "near")["refused_frames"] == 1


def test_what_was_written_through_further_down_is_still_demoted_into_a_tier_above_it(tiers):
    rig, near, far = tiers(near=BACK, far=THROUGH)
    fill(rig, 6)
    assert (near.puts, far.puts) == (2, 6)


def test_a_tail_that_does_not_fill_its_block_goes_nowhere(tiers):
    rig, near, far = tiers(near=BACK, far=BACK)
    rig.serve(list(range(7000, 7000 + BLOCK_TOKENS + 1)))
    fill(rig, 5)
    assert held(rig, prompt(1))["near"] == CHUNK_TOKENS
    assert near.puts == 1
    assert far.puts == 0


def test_eviction_waits_for_nothing_and_what_is_above_the_bound_is_dropped(tiers):
    """Half of a staging part of eight slots takes what a stalled store leaves waiting."""
    rig, near, far = tiers(near=BACK, far=BACK, staging_chunks=8)
    near.writing.clear()
    fill_without_waiting = [prompt(number) for number in range(1, 15)]
    for tokens in fill_without_waiting:
        assert rig.serve(tokens) == 0
    memory = rig.engine.tiers.memory
    assert memory.residents.used_bytes == 4 * SLOT_BYTES
    assert memory._demoting_bytes == 4 * SLOT_BYTES
    assert counters(rig, "near")["demotions_dropped"] == 14 - 4 - 4
    assert counters(rig, "far")["demotions_dropped"] == far.puts == 0
    found = [rig.hit(tokens) for tokens in fill_without_waiting]
    assert sum(found) == 8 * CHUNK_TOKENS, "what waits for the store is found all the while"
    near.writing.set()
    settle(rig)
    assert nothing_is_under_way(rig)
    assert counters(rig, "near")["demoted_frames"] == 4


def test_what_is_hit_on_its_way_down_stays_until_it_is_loaded(tiers):
    rig, near, _ = tiers(near=BACK)
    fill(rig, 4)
    near.writing.clear()
    rig.serve(prompt(5))
    assert near.writes.wait(10)
    name = rig.begin(prompt(1))
    assert rig.wait_match(name, CHUNK_TOKENS) == CHUNK_TOKENS
    near.writing.set()
    settle(rig)
    rig.serve(prompt(6))
    rig.serve(prompt(7))
    settle(rig)
    blocks = rig.blocks_for(CHUNK_TOKENS)
    job = rig.engine.plan_load(name, 0, CHUNK_TOKENS, [blocks])
    rig.load(job)
    rig.engine.acknowledge([job.job_id])
    rig.engine.finish(name)
    assert rig.serve(prompt(1)) == CHUNK_TOKENS - 1
    settle(rig)
    assert nothing_is_under_way(rig)


def test_what_is_computed_again_on_its_way_down_is_an_entry_of_its_own(tiers):
    rig, near, _ = tiers(near=BACK)
    fill(rig, 4)
    near.writing.clear()
    rig.serve(prompt(5))
    assert near.writes.wait(10)
    name = rig.begin(prompt(1))
    tables = rig.tables_for(CHUNK_TOKENS)
    rig.compute(tables, prompt(1), Scope())
    job = rig.engine.plan_store(name, CHUNK_TOKENS, tables, final=True)
    rig.store(job)
    rig.engine.acknowledge([job.job_id])
    rig.engine.finish(name)
    assert held(rig, prompt(1))[MEMORY] == CHUNK_TOKENS
    near.writing.set()
    settle(rig)
    assert held(rig, prompt(1)) == dict.fromkeys((MEMORY, "near", "far"), CHUNK_TOKENS)
    assert rig.serve(prompt(1)) == CHUNK_TOKENS - 1
    settle(rig)
    assert nothing_is_under_way(rig)


def test_a_store_that_is_down_or_full_loses_what_is_evicted_and_says_so(tiers):
    rig, near, far = tiers(near=BACK, far=BACK)
    near.fail = True
    fill(rig, 5)
    assert counters(rig, "near")["demotions_dropped"] == 1, "it was tried"
    fill(rig, 1, first=6)
    assert far.puts == 1, "the breaker is open; what is below takes it"
    near.fail = False
    rig.engine.tiers.storage_tier("near").breaker.succeeded()
    near.put = lambda keys, *_: [PutStatus.FULL for _ in keys]
    fill(rig, 1, first=7)
    assert counters(rig, "near")["demoted_frames"] == 0
    assert nothing_is_under_way(rig)


def test_after_a_reset_nothing_is_demoted_into_what_outlives_the_process(tiers):
    rig, near, far = tiers(near=BACK, far=BACK, capabilities=Capability.DURABLE)
    fill(rig, 4)
    rig.engine.reset()
    fill(rig, 8, first=10)
    assert near.puts == far.puts == 0


def test_what_is_being_read_is_not_evicted_for_what_has_to_make_room_for_it(tiers):
    rig, near, _ = tiers(near=BACK, tier_fields=bounds(near=4))
    rig.serve(LONG)
    fill(rig, 4)
    assert held(rig)["near"] == len(LONG)
    near.gate.clear()
    name = rig.begin(LONG)
    settle_writes(rig)
    near.gate.set()
    assert rig.wait_match(name, len(LONG)) == len(LONG)
    rig.engine.finish(name)
    assert counters(rig, "near")["demotions_dropped"] == 4
    fill(rig, 8, first=5)
    assert counters(rig, "near")["evictions"] == 4, "they may go when they have been read"
