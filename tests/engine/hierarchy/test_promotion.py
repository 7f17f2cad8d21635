"""What comes up where and gets in, and what is found and cleared there."""

from __future__ import annotations

import pytest

from lmcache_core.api.messages import SettleCommand
from lmcache_core.config import TierRules
from lmcache_core.engine.chunks.sightings import Sightings
from lmcache_core.engine.control.commands import CommandRunner
from lmcache_core.keys import tokens_to_bytes
from tests.engine.hierarchy.stores import BACK, bounds, counters, fill, held, prompt, settle
from tests.engine.rig import CHUNK_TOKENS
from tests.engine.test_pins import MEMORY
from tests.engine.test_storage_tier import LONG


@pytest.mark.parametrize("promote", [True, False])
def test_a_hit_far_down_is_copied_into_the_tiers_between_that_want_it(tiers, promote):
    rig, _, _ = tiers(near=TierRules(promote=promote))
    fill(rig, 6)
    names = rig.engine.tiers
    names.drop("near", names.keys("near"), force=False)
    settle(rig)
    assert rig.hit(prompt(1)) == CHUNK_TOKENS
    settle(rig)
    assert held(rig, prompt(1))["near"] == (CHUNK_TOKENS if promote else 0)
    assert held(rig, prompt(1))[MEMORY] == CHUNK_TOKENS


def test_what_is_asked_once_does_not_get_into_a_tier_that_wants_reuse(tiers):
    rig, near, far = tiers(near=TierRules(min_reuse=2), far=TierRules(write="back", min_reuse=3))
    fill(rig, 6)
    assert near.puts == far.puts == 0
    assert rig.serve(prompt(6)) == CHUNK_TOKENS - 1
    settle(rig)
    assert near.puts == 1, "the second time it is seen"
    fill(rig, 6, first=10)
    assert rig.serve(prompt(1)) == 0, "it had to be computed a second time"
    settle(rig)
    assert held(rig, prompt(1)) == {MEMORY: CHUNK_TOKENS, "near": CHUNK_TOKENS, "far": 0}
    rig.hit(prompt(1))
    names = rig.engine.tiers
    names.drop("near", names.keys("near"), force=False)
    fill(rig, 6, first=20)
    assert far.puts == 1, "seen three times, evicted once"
    assert counters(rig, "near")["admitted_frames"] == 2


def test_sightings_are_bounded_and_forget_what_was_seen_longest_ago():
    sightings = Sightings(limit=3 * 256)
    # Each part of the keys forgets by itself.
    for name in (b"xa", b"xb", b"xc", b"y", b"xa", b"xd"):
        sightings.see(name)
    assert len(sightings) == 4
    counts = [sightings.count(name) for name in (b"xa", b"xb", b"xc", b"xd", b"y")]
    assert counts == [2, 0, 1, 1, 1]


def test_a_look_up_counts_what_the_tiers_have_together(tiers):
    rig, _, _ = tiers(near=BACK, far=BACK, tier_fields=bounds(near=2))
    rig.serve(LONG)
    fill(rig, 3)
    assert held(rig) == {MEMORY: CHUNK_TOKENS, "near": 0, "far": 0}
    command = SettleCommand(request_id="1", deadline_seconds=1, tokens=tokens_to_bytes(LONG))
    reply = CommandRunner(rig.engine, "rig", 1).run(command)
    assert (reply.num_tokens, reply.facts) == (len(LONG), held(rig))
    assert rig.serve(LONG) == len(LONG) - 1


def test_each_tier_is_cleared_and_told_of_by_itself(tiers):
    rig, near, far = tiers(near=BACK, far=BACK, storage_chunks=5)
    names = rig.engine.tiers
    names.events.enable()
    fill(rig, 14)
    there = {name: set() for name in names.locations}
    for location, admitted, key in names.events.take(10_000):
        (there[location].add if admitted else there[location].remove)(key)
    assert there == {name: set(names.keys(name)) for name in names.locations}
    assert [len(keys) for keys in there.values()] == [4, 5, 5]
    for name, store in (("far", far), ("near", near)):
        assert names.drop(name, names.keys(name), force=False) == 5 * CHUNK_TOKENS
        settle(rig)
        assert not store.there
    assert [tier.entries for tier in names.status()] == [4, 0, 0]
