"""Pins in the tiers of a hierarchy bring bytes there, and keep them."""

from __future__ import annotations

import pytest

from lmcache_core.api.messages import Welcome
from lmcache_core.api.pins import OnMissing
from lmcache_core.config import ANYWHERE, TierRules
from lmcache_core.keys import Scope, tokens_to_bytes
from tests.engine.hierarchy.commander import Commander
from tests.engine.hierarchy.stores import (
    BACK,
    counters,
    fill,
    held,
    nothing_is_under_way,
    prompt,
    settle,
)
from tests.engine.rig import CHUNK_TOKENS
from tests.engine.test_pins import MEMORY, ask
from tests.engine.test_storage_tier import CHUNK, LONG


def test_a_pin_in_a_tier_that_is_written_back_to_brings_the_bytes_there(tiers):
    rig, near, far = tiers(near=BACK, far=TierRules(write="back", min_reuse=9))
    rig.serve(LONG)
    settle(rig)
    for location, store in (("near", near), ("far", far)):
        reply = Commander(rig).pin(LONG, location, location=location)
        assert (reply.num_tokens, reply.pin.state.value) == (len(LONG), "active")
        assert store.puts == 4
    fill(rig, 20)
    assert held(rig)["near"] == held(rig)["far"] == len(LONG)
    assert rig.serve(LONG) == len(LONG) - 1


def test_a_pin_covers_only_what_has_arrived_within_its_time(tiers):
    rig, near, _ = tiers(near=BACK)
    rig.serve(LONG)
    near.writing.clear()
    reply = Commander(rig).pin(LONG, seconds=0.05, location="near", on_missing=OnMissing.FAIL)
    assert reply.error == "missing"
    reply = Commander(rig).pin(
        LONG, "q", seconds=0.05, location="near", on_missing=OnMissing.PARTIAL
    )
    assert reply.num_tokens == 0
    reply = Commander(rig).pin(
        LONG, "r", seconds=0.05, location="near", on_missing=OnMissing.RESERVE
    )
    assert reply.num_tokens == 0
    near.writing.set()
    settle(rig)
    reports = {name: rig.engine.tiers.pins.report(name) for name in "pqr"}
    assert reports["p"] is None
    assert reports["q"].tokens_pinned == 0
    assert reports["r"].tokens_pinned == len(LONG)
    assert nothing_is_under_way(rig)


def test_a_pin_of_another_ledger_is_refused_before_it_brings_anything_down(tiers):
    rig, near, _ = tiers(near=BACK)
    rig.serve(LONG)
    settle(rig)
    commander = Commander(rig)
    for ledger_id in ("ours", "another"):
        commander.runner.bond.welcome(
            Welcome(instance_id="rig", incarnation=1, ledger_id=ledger_id)
        )
        rig.engine.tiers.pins.pin(ask(LONG[:CHUNK_TOKENS], ledger_id))
    assert commander.pin(LONG, location="near").error == "conflict"
    settle(rig)
    assert near.puts == 0


def test_what_a_pin_waits_for_is_written_at_once_whatever_the_rules_are(tiers):
    rules = TierRules(write="back", min_reuse=5, min_tokens=100)
    rig, near, far = tiers(near=rules, far=BACK, chunks=8)
    reply = Commander(rig).pin(LONG, location="near", on_missing=OnMissing.RESERVE)
    assert reply.num_tokens == 0
    rig.serve(LONG)
    settle(rig)
    assert rig.engine.tiers.pins.report("p").tokens_pinned == len(LONG)
    assert (near.puts, far.puts) == (4, 0)
    fill(rig, 10)
    assert held(rig)["near"] == len(LONG)


def test_what_a_pin_waits_for_goes_down_at_the_latest_when_it_is_evicted(tiers):
    """Where too much waits for the store already to write it at once."""
    rig, near, _ = tiers(near=TierRules(write="back", min_reuse=5), far=BACK)
    Commander(rig).pin(LONG, location="near", on_missing=OnMissing.RESERVE)
    near.writing.clear()
    rig.serve(LONG)
    assert counters(rig, "near")["put_skipped"] == 2
    near.writing.set()
    settle(rig)
    fill(rig, 4)
    assert rig.engine.tiers.pins.report("p").tokens_pinned == len(LONG)


def test_what_a_pin_waits_for_is_copied_on_its_way_up(tiers):
    rig, _, _ = tiers(near=BACK)
    rig.serve(CHUNK)
    fill(rig, 6)
    names = rig.engine.tiers
    names.drop("near", names.keys("near"), force=False)
    settle(rig)
    Commander(rig).pin(CHUNK, location="near", on_missing=OnMissing.RESERVE)
    assert rig.hit(CHUNK) == CHUNK_TOKENS
    settle(rig)
    assert rig.engine.tiers.pins.report("p").tokens_pinned == CHUNK_TOKENS


def test_what_is_pinned_in_a_tier_is_not_demoted_from_it(tiers):
    rig, near, _ = tiers(far=BACK, storage_chunks=6)
    rig.serve(prompt(1, chunks=2))
    settle(rig)
    assert Commander(rig).pin(prompt(1, chunks=2), location="near").num_tokens == 2 * CHUNK_TOKENS
    fill(rig, 12, first=20)
    assert held(rig, prompt(1, chunks=2)) == {MEMORY: 0, "near": 2 * CHUNK_TOKENS, "far": 0}
    assert len(near.there) == 6


def test_a_pin_in_host_memory_brings_nothing_down(tiers):
    rig, near, far = tiers(near=BACK, far=BACK, chunks=8)
    rig.serve(LONG)
    assert Commander(rig).pin(LONG, location=MEMORY).num_tokens == len(LONG)
    settle(rig)
    assert near.puts == far.puts == 0


@pytest.mark.parametrize("first", [2, 9], ids=["before", "behind"])
def test_a_pin_covers_what_stays_where_a_sibling_is_only_on_its_way_down(tiers, first):
    rig, near, _ = tiers(near=BACK)
    going, staying = ([1, 1, n, *range(100, 100 + CHUNK_TOKENS - 3)] for n in (first, 11 - first))
    rig.serve(going)
    settle(rig)
    rig.serve(staying)
    settle(rig)
    near.writing.clear()
    for number in (2, 3, 4):  # as many as evict the first
        rig.serve(prompt(number))
    engine_tiers = rig.engine.tiers
    chains = (engine_tiers.chain_of(tokens_to_bytes(each), Scope()) for each in (going, staying))
    entries = [engine_tiers.memory.index[chain.keys[0]] for chain in chains]
    assert [entry.staged for entry in entries] == [True, False]
    assert held(rig, [1, 1, 5])[MEMORY] == 2
    for location in (MEMORY, ANYWHERE):
        request = ask([1, 1, 5], location, location=location)
        assert engine_tiers.pins.pin(request).tokens_pinned == 2
    # Of the chunk that goes nothing is left to stay but what the other one begins like.
    assert engine_tiers.pins.pin(ask(going, "q")).tokens_pinned == 2
