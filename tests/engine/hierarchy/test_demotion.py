"""From one store to the next: what a store evicts, and what is lost on the way."""

from __future__ import annotations

import pytest

from lmcache_core.api import Capability
from lmcache_core.api.frames import HEADER_BYTES
from lmcache_core.engine.frames.header import FrameHeader
from tests.engine.hierarchy.stores import (
    BACK,
    Gated,
    bounds,
    counters,
    fill,
    held,
    nothing_is_under_way,
    prompt,
    settle,
)
from tests.engine.rig import CHUNK_TOKENS
from tests.engine.serdes import SIGNED, ZLIB, chain
from tests.engine.test_pins import MEMORY


def test_what_a_store_evicts_goes_to_the_next(tiers):
    rig, near, far = tiers(far=BACK, tier_fields=bounds(near=6))
    fill(rig, 6)
    assert far.puts == 0
    fill(rig, 4, first=7)
    assert counters(rig, "far")["demoted_frames"] == 4
    assert held(rig, prompt(1)) == {MEMORY: 0, "near": 0, "far": CHUNK_TOKENS}
    assert not near.there & far.there
    for number in range(1, 11):
        assert rig.hit(prompt(number)) == CHUNK_TOKENS
        settle(rig)
    assert nothing_is_under_way(rig)


def test_chunks_fall_through_all_tiers_and_come_back_from_each(tiers):
    rig, near, far = tiers(near=BACK, far=BACK, storage_chunks=5)
    fill(rig, 14)
    assert [len(store.there) for store in (near, far)] == [5, 5]
    assert counters(rig, "far")["demoted_frames"] == 5
    name = rig.begin(prompt(3))
    assert rig.wait_match(name, CHUNK_TOKENS) == CHUNK_TOKENS
    assert rig.engine.match(name, CHUNK_TOKENS).by_location == {"far": CHUNK_TOKENS}
    rig.engine.finish(name)
    for number in range(2, 15):
        rig.serve(prompt(number))
        settle(rig)
    assert nothing_is_under_way(rig)


@pytest.mark.parametrize("above", [(), ("zlib",), ("zlib", "signed")])
@pytest.mark.parametrize("below", [(), ("signed",)])
def test_tiers_of_unlike_serdes_hand_frames_down(tiers, above, below):
    room = 3 * (HEADER_BYTES + (1024 if above else 4 * 4096))
    fields = {"near": chain(*above) | {"capacity_bytes": room}, "far": chain(*below)}
    rig, _, far = tiers(
        near=BACK, far=BACK, offers=[ZLIB, SIGNED], tier_fields=fields, block_bytes=4096
    )
    fill(rig, 16)
    assert counters(rig, "far")["demoted_frames"] > 0
    assert counters(rig, "far")["demotions_dropped"] == 0
    for frame in far._store.frames.values():
        header = FrameHeader.parse(memoryview(frame))
        assert header.serdes == below
    for number in range(1, 17):
        assert rig.serve(prompt(number)) == CHUNK_TOKENS - 1
        settle(rig)
    assert counters(rig, "far")["read_frames"] > 0
    assert counters(rig, "far")["damaged_frames"] == 0


def test_what_was_kept_and_does_not_fit_any_more_goes_down_at_the_start(tiers):
    stores = {"near": Gated(), "far": Gated()}
    rig, near, far = tiers(stores=stores, far=BACK, capabilities=Capability.SCAN)
    fill(rig, 6)
    rig.engine.close()
    again = {"near": Gated(near._store), "far": Gated(far._store)}
    rig, near, far = tiers(
        stores=again, far=BACK, capabilities=Capability.SCAN, tier_fields=bounds(near=4)
    )
    settle(rig)
    assert (len(near.there), len(far.there)) == (4, 2)
    for number in range(1, 7):
        assert rig.hit(prompt(number)) == CHUNK_TOKENS
        settle(rig)


def test_a_damaged_frame_is_not_handed_down(tiers):
    rig, near, far = tiers(far=BACK, storage_chunks=5)
    fill(rig, 5)
    first = next(iter(near._store.frames))
    frame = bytearray(near._store.frames[first])
    frame[-1] ^= 1
    near._store.frames[first] = bytes(frame)
    fill(rig, 2, first=6)
    assert first not in far.there
    assert counters(rig, "far")["demotions_dropped"] == 1
    assert counters(rig, "far")["demoted_frames"] == 1


def test_a_store_that_cannot_be_read_evicts_all_the_same(tiers):
    rig, near, far = tiers(far=BACK, storage_chunks=5)
    fill(rig, 5)
    victim = rig.engine.tiers.storage_tier("near").residents.victim()
    near.get = lambda *_: 1 / 0
    fill(rig, 1, first=6)
    assert victim not in near.there
    assert far.puts == 0
    assert nothing_is_under_way(rig)
