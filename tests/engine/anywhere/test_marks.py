"""Pins whose location is any: of each chunk the last copy that a tier holds stays."""

from __future__ import annotations

import pytest

from lmcache_core.api import BackendContext, Capability
from lmcache_core.api.connector import KVGroup
from lmcache_core.api.messages import ClearCommand, PinCommand, PlanCommand
from lmcache_core.api.pins import OnMissing, PinState, Renew
from lmcache_core.config import ANYWHERE
from lmcache_core.errors import NotCachedError, UnknownNameError
from lmcache_core.keys import tokens_to_bytes
from lmcache_core.testing import DictBackend, DictConfig, DictStore
from tests.engine.anywhere.engines import (
    DISK,
    OTHER,
    SHARED,
    anywhere,
    clear,
    keys,
    pin,
    pinned,
    press,
    report,
    store,
    unpin,
)
from tests.engine.hybrid_rig import HybridRig
from tests.engine.rig import BLOCK_TOKENS, CHUNK_TOKENS, FRAME_BYTES, SLOT_BYTES, Rig, storage_spec
from tests.engine.test_move import Mover, held
from tests.engine.test_pins import MEMORY, ask
from tests.engine.test_storage_tier import LONG, settle


def test_one_copy_is_held_in_the_lowest_tier_and_stays_through_floods_of_all(rig):
    store(rig)
    made = pin(rig)
    assert (made.state, made.tokens_pinned) == (PinState.ACTIVE, len(LONG))
    assert made.pinned_bytes == 4 * FRAME_BYTES
    assert pinned(rig) == [0, 4 * FRAME_BYTES]
    press(rig)
    press(rig, 300_000)
    assert held(rig, MEMORY) == 0
    assert report(rig).state is PinState.ACTIVE
    assert rig.serve(LONG) == len(LONG) - 1
    assert unpin(rig) == len(LONG)
    assert pinned(rig) == [0, 0]
    press(rig, 500_000)
    assert rig.hit(LONG) == 0


def test_what_is_in_host_memory_alone_stays_there(engine):
    with engine.start(write="back") as rig:
        rig.serve(LONG)
        assert pin(rig).pinned_bytes == 4 * SLOT_BYTES
        press(rig)
        assert held(rig, MEMORY) == len(LONG)
        assert pinned(rig) == [4 * SLOT_BYTES, 0]


def test_the_mark_goes_down_when_a_copy_comes_and_up_when_that_goes(rig):
    store(rig)
    clear(rig, DISK)
    made = pin(rig)
    assert pinned(rig) == [4 * SLOT_BYTES, 0]
    assert Mover(rig).move(MEMORY, DISK, LONG, keep=True).num_tokens == len(LONG)
    assert pinned(rig) == [0, 4 * FRAME_BYTES]
    changed = rig.engine.tiers.pins.take_changed()
    assert [one.pinned_bytes for one in changed] == [4 * FRAME_BYTES] != [made.pinned_bytes]
    assert clear(rig, DISK) == len(LONG)
    assert pinned(rig) == [4 * SLOT_BYTES, 0]
    assert report(rig).state is PinState.ACTIVE
    changed = rig.engine.tiers.pins.take_changed()
    assert [one.pinned_bytes for one in changed] == [made.pinned_bytes]


def test_the_mark_stays_up_where_pins_have_no_room_below(engine):
    with engine.start(share=0.4) as rig:  # Pins may take four chunks of each tier.
        store(rig, OTHER)
        clear(rig, DISK)
        pin(rig, OTHER)
        store(rig, LONG[: 2 * CHUNK_TOKENS])
        pin(rig, LONG[: 2 * CHUNK_TOKENS], "other")
        assert pinned(rig) == [4 * SLOT_BYTES, 2 * FRAME_BYTES]
        Mover(rig).move(MEMORY, DISK, OTHER, keep=True)
        assert pinned(rig) == [2 * SLOT_BYTES, 4 * FRAME_BYTES]
        press(rig)
        assert rig.hit(OTHER) == len(OTHER)


def test_the_mark_does_not_go_up_because_a_copy_comes_there():
    stores = {name: DictStore() for name in ("upper", "lower")}
    specs = [
        storage_spec(
            name,
            lambda *_, name=name: DictBackend(
                DictConfig(), BackendContext(instance_id="rig", tier=name), stores[name]
            ),
            Capability.NONE,
        )
        for name in stores
    ]
    with Rig(chunks=20, storage=specs, storage_chunks=10) as rig:
        store(rig)
        clear(rig, "upper")
        pin(rig)
        assert pinned(rig) == [0, 0, 4 * FRAME_BYTES]
        assert Mover(rig).move("lower", "upper", LONG, keep=True).num_tokens == len(LONG)
        assert pinned(rig) == [0, 0, 4 * FRAME_BYTES]
        assert Mover(rig).move("lower", "upper", LONG).num_tokens == len(LONG)
        assert pinned(rig) == [0, 4 * FRAME_BYTES, 0]


def test_a_clear_that_is_not_forced_leaves_the_copy_that_is_held(rig):
    store(rig)
    store(rig, OTHER)
    pin(rig)
    assert clear(rig, DISK, force=False) == len(OTHER)
    assert clear(rig, MEMORY, force=False) == len(LONG) + len(OTHER)
    assert rig.hit(LONG) == len(LONG)


def test_what_is_lost_everywhere_is_reserved_and_held_again_when_it_comes(rig):
    store(rig)
    pin(rig)
    clear(rig, MEMORY)
    clear(rig, DISK)
    lost = report(rig)
    assert (lost.state, lost.tokens_pinned, lost.first_missing) == (PinState.DEGRADED, 0, 0)
    assert (lost.pinned_bytes, lost.reserved_bytes) == (0, 4 * SLOT_BYTES)
    assert pinned(rig) == [4 * SLOT_BYTES, 0]
    press(rig)
    store(rig)
    assert report(rig).state is PinState.ACTIVE
    assert pinned(rig) == [0, 4 * FRAME_BYTES]


def test_a_damaged_copy_is_put_aside_and_the_next_one_is_held(rig, engine):
    store(rig)
    pin(rig)
    clear(rig, MEMORY)
    (spoilt,) = engine.folder.glob(f"rig/frames/*/{keys(rig)[1].hex()}")
    spoilt.write_bytes(spoilt.read_bytes()[:-1] + b"\1")
    assert rig.serve(LONG) == CHUNK_TOKENS
    settle(rig)
    assert report(rig).state is PinState.ACTIVE, "it was computed again"
    assert pinned(rig) == [0, 4 * FRAME_BYTES]


def test_a_store_that_others_share_holds_nothing(engine):
    with engine.start(memory=20, shared=True) as rig:
        store(rig)
        clear(rig, DISK)
        pin(rig)
        assert pinned(rig) == [4 * SLOT_BYTES, 0, 0]
        clear(rig, MEMORY)
        assert held(rig, SHARED) == len(LONG)
        assert (report(rig).state, report(rig).tokens_pinned) == (PinState.DEGRADED, 0)
        assert pin(rig, pin_id="q").tokens_pinned == 0
        with pytest.raises(NotCachedError, match="0 of 64 tokens are cached in any"):
            pin(rig, pin_id="r", on_missing=OnMissing.FAIL)
        rig.serve(LONG)  # It is brought up, and waited for there.
        assert report(rig).state is PinState.ACTIVE


def test_a_pin_may_change_between_one_tier_and_any(rig):
    tiers = rig.engine.tiers
    rest = [*LONG, *range(5000, 5000 + CHUNK_TOKENS)]
    store(rig)
    for version, location in enumerate((ANYWHERE, MEMORY, ANYWHERE, DISK, ANYWHERE), 1):
        with tiers.lock:
            made = tiers.pins.pin(
                ask(rest, location=location, version=version, on_missing=OnMissing.RESERVE)
            )
        assert made.reserved_bytes == SLOT_BYTES
        assert made.pinned_bytes == 4 * (SLOT_BYTES if location == MEMORY else FRAME_BYTES)
        in_memory = 4 if location == MEMORY else 0
        waiting = (0, SLOT_BYTES) if location == DISK else (SLOT_BYTES, 0)
        assert pinned(rig) == [
            in_memory * SLOT_BYTES + waiting[0],
            (4 - in_memory) * FRAME_BYTES + waiting[1],
        ]
    store(rig, rest)
    assert report(rig).state is PinState.ACTIVE
    assert pinned(rig) == [0, 5 * FRAME_BYTES]
    unpin(rig, version=9)
    assert pinned(rig) == [0, 0]


def test_a_hit_in_whichever_tier_renews_the_pin(rig):
    store(rig)
    pin(rig, ttl_seconds=100.0, renew=Renew.ON_HIT)
    clear(rig, MEMORY)
    rig.engine.tiers.pins.take_changed()
    rig.serve(LONG)
    assert [one.pin_id for one in rig.engine.tiers.pins.take_changed()] == ["p"]


def test_raised_weights_leave_nothing_held(rig):
    store(rig)
    pin(rig)
    with rig.engine.tiers.lock:
        rig.engine.tiers.raise_epoch()
    assert (report(rig).state, report(rig).tokens_pinned) == (PinState.PENDING, 0)
    assert pinned(rig) == [4 * SLOT_BYTES, 0]
    rig.serve(LONG)
    assert report(rig).state is PinState.ACTIVE


def test_a_model_with_windows_is_refused_with_the_tiers_that_are_there():
    groups = [KVGroup(BLOCK_TOKENS, 16), KVGroup(BLOCK_TOKENS, 16, window=20)]
    with HybridRig(groups=groups) as rig:
        runner = Mover(rig).runner
        request = anywhere(LONG)
        for kind in (PinCommand, PlanCommand):
            reply = runner.run(kind(request_id="1", deadline_seconds=5, pin=request))
            assert reply.error == "conflict"
            assert "sliding windows" in reply.detail
            assert f"name one of {MEMORY}" in reply.detail


def test_any_is_no_tier_to_clear_and_is_among_the_locations_that_a_pin_may_have(rig):
    runner = Mover(rig).runner
    tokens = tokens_to_bytes(LONG)
    command = ClearCommand(request_id="1", deadline_seconds=5, location=ANYWHERE, tokens=tokens)
    assert runner.run(command).error == "unknown_location"
    with pytest.raises(UnknownNameError, match=f"{MEMORY}, {DISK}, any"):
        rig.engine.tiers.pins.pin(ask(LONG, location="nowhere"))
