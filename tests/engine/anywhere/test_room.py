"""What a pin in any tier is charged for, and where."""

from __future__ import annotations

import pytest

from lmcache_core.api.pins import OnMissing, PinState
from lmcache_core.errors import CapacityError
from tests.engine.anywhere.engines import (
    DISK,
    OTHER,
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
from tests.engine.kept_pins.keeping import kept
from tests.engine.rig import CHUNK_TOKENS, FRAME_BYTES, SLOT_BYTES
from tests.engine.test_move import Mover, held
from tests.engine.test_pins import MEMORY, ask
from tests.engine.test_storage_tier import LONG


def test_a_chunk_is_charged_once_in_one_tier_however_many_pins_hold_it(rig):
    store(rig)
    pin(rig, pin_id="a")
    pin(rig, LONG[: 2 * CHUNK_TOKENS], pin_id="b")
    with rig.engine.tiers.lock:
        rig.engine.tiers.pins.pin(ask(LONG, "c", location=DISK))
    assert pinned(rig) == [0, 4 * FRAME_BYTES]
    kept(rig, "c")
    assert unpin(rig, "a") == len(LONG)
    assert pinned(rig) == [0, 4 * FRAME_BYTES]
    assert unpin(rig, "c") == len(LONG)
    assert pinned(rig) == [0, 2 * FRAME_BYTES]
    assert report(rig, "b").tokens_pinned == 2 * CHUNK_TOKENS
    unpin(rig, "b")
    assert pinned(rig) == [0, 0]


def test_where_the_lowest_tier_has_no_room_the_next_one_holds(engine):
    with engine.start(share=0.4) as rig:  # Pins may take four chunks of each tier.
        store(rig, OTHER)
        with rig.engine.tiers.lock:
            rig.engine.tiers.pins.pin(ask(OTHER, "disk", location=DISK))
        store(rig)
        two = LONG[: 2 * CHUNK_TOKENS]
        assert held(rig, DISK, two) == len(two)
        assert pin(rig, two).state is PinState.ACTIVE
        assert pinned(rig) == [2 * SLOT_BYTES, 4 * FRAME_BYTES]


def test_what_has_one_copy_has_its_room_before_what_has_two(engine):
    with engine.start(share=0.4, write="back") as rig:  # Pins may take four chunks of each tier.
        mover = Mover(rig)
        rig.serve(OTHER[: 3 * CHUNK_TOKENS])
        mover.move(MEMORY, DISK, OTHER[: 3 * CHUNK_TOKENS])
        pin(rig, OTHER[: 3 * CHUNK_TOKENS], "other")
        two = LONG[: 2 * CHUNK_TOKENS]
        rig.serve(two)
        mover.move(MEMORY, DISK, two)
        rig.serve(two[:CHUNK_TOKENS])  # The first is brought up.
        with rig.engine.tiers.lock:
            assert rig.engine.tiers.pins.plan(anywhere(two)).fits_tier
        assert pin(rig, two).state is PinState.ACTIVE
        assert pinned(rig) == [SLOT_BYTES, 4 * FRAME_BYTES]


def test_a_new_version_goes_on_holding_what_the_old_one_held(rig):
    store(rig)
    pin(rig, LONG[: 3 * CHUNK_TOKENS])
    assert pin(rig, LONG, version=2).state is PinState.ACTIVE
    assert pinned(rig) == [0, 4 * FRAME_BYTES]
    assert pin(rig, LONG[: 2 * CHUNK_TOKENS], version=3).state is PinState.ACTIVE
    assert pinned(rig) == [0, 2 * FRAME_BYTES]
    press(rig)
    assert rig.hit(LONG[: 2 * CHUNK_TOKENS]) == 2 * CHUNK_TOKENS


def test_what_comes_where_host_memory_has_no_room_for_it_is_held_below(engine):
    with engine.start(share=0.4) as rig:  # Pins may take four chunks of each tier.
        store(rig)
        pin(rig)
        clear(rig, MEMORY)
        rig.serve(OTHER)
        with rig.engine.tiers.lock:
            rig.engine.tiers.pins.pin(ask(OTHER, "memory"))
        clear(rig, DISK)
        assert (report(rig).state, report(rig).reserved_bytes) == (PinState.DEGRADED, 0)
        store(rig)
        assert report(rig).state is PinState.ACTIVE
        assert pinned(rig) == [4 * SLOT_BYTES, 4 * FRAME_BYTES]
        assert not any(rig.engine.tiers.pins.awaits(MEMORY, key) for key in keys(rig))
        unpin(rig)
        assert pinned(rig) == [4 * SLOT_BYTES, 0]


def test_a_copy_that_had_no_room_is_held_when_the_pin_is_asked_for_again(engine):
    with engine.start(share=0.4) as rig:  # Pins may take four chunks of each tier.
        store(rig)
        pin(rig)
        rig.serve(OTHER)
        with rig.engine.tiers.lock:
            rig.engine.tiers.pins.pin(ask(OTHER, "memory"))
        clear(rig, DISK)
        assert held(rig, MEMORY) == len(LONG)
        assert (report(rig).state, report(rig).tokens_pinned) == (PinState.DEGRADED, 0)
        with pytest.raises(CapacityError, match=f"pins of tier {MEMORY}"):
            pin(rig)
        assert report(rig).state is PinState.DEGRADED
        unpin(rig, "memory")
        assert pin(rig).state is PinState.ACTIVE
        assert pinned(rig) == [4 * SLOT_BYTES, 0]


def test_what_fits_nowhere_is_refused_with_the_numbers_of_the_tier_that_is_short(rig):
    store(rig)
    tokens = [*LONG, *range(20_000, 20_000 + 9 * CHUNK_TOKENS)]
    with rig.engine.tiers.lock:
        plan = rig.engine.tiers.pins.plan(anywhere(tokens, on_missing=OnMissing.RESERVE))
    assert not plan.fits_tier
    assert (plan.asked_bytes, plan.pinned_bytes) == (9 * SLOT_BYTES, 0)
    assert plan.pin_limit_bytes == 8 * SLOT_BYTES
    assert plan.charged_bytes == 4 * FRAME_BYTES + 9 * SLOT_BYTES
    with pytest.raises(CapacityError, match=f"pins of tier {MEMORY}: {9 * SLOT_BYTES} bytes"):
        pin(rig, tokens, on_missing=OnMissing.RESERVE)
    assert pinned(rig) == [0, 0]


def test_a_pin_costs_what_its_plan_says_in_all_tiers_together(engine):
    with engine.start(write="back", disk=20) as rig:
        rig.serve(LONG)
        Mover(rig).move(MEMORY, DISK, LONG[: 2 * CHUNK_TOKENS])
        assert (held(rig, MEMORY), held(rig, DISK)) == (0, 2 * CHUNK_TOKENS)
        with rig.engine.tiers.lock:
            plan = rig.engine.tiers.pins.plan(anywhere(LONG))
        assert plan.fits_tier
        assert plan.cached_tokens == len(LONG)
        made = pin(rig)
        assert pinned(rig) == [2 * SLOT_BYTES, 2 * FRAME_BYTES]
        assert made.pinned_bytes == plan.asked_bytes == plan.charged_bytes == sum(pinned(rig))
        assert (made.state, made.tokens_pinned) == (PinState.ACTIVE, len(LONG))
        with rig.engine.tiers.lock:
            again = rig.engine.tiers.pins.plan(anywhere(LONG))
        assert (again.asked_bytes, again.owner_bytes) == (0, 0), "it would replace itself"


def test_two_pins_wait_for_a_chunk_in_host_memory_and_its_room_is_kept_once(rig):
    pins = rig.engine.tiers.pins
    for pin_id in ("a", "b"):
        pin(rig, LONG, pin_id, on_missing=OnMissing.RESERVE)
    with rig.engine.tiers.lock:
        pins.pin(ask(LONG, "c", on_missing=OnMissing.RESERVE))
    assert pinned(rig) == [4 * SLOT_BYTES, 0]
    assert report(rig, "a").reserved_bytes == 4 * SLOT_BYTES
    store(rig)
    assert {report(rig, name).state for name in "abc"} == {PinState.ACTIVE}
    assert pinned(rig) == [4 * SLOT_BYTES, 4 * FRAME_BYTES], "c holds in host memory"
    assert not report(rig, "a").reserved_bytes
