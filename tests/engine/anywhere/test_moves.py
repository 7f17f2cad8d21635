"""Moves take the mark of a pin in any tier along."""

from __future__ import annotations

from lmcache_core.api.pins import PinState
from tests.engine.anywhere.engines import (
    DISK,
    OTHER,
    SHARED,
    clear,
    pin,
    pinned,
    press,
    report,
    store,
)
from tests.engine.rig import CHUNK_TOKENS, FRAME_BYTES, SLOT_BYTES
from tests.engine.test_move import Mover, held
from tests.engine.test_pins import MEMORY, ask
from tests.engine.test_storage_tier import LONG


def test_a_move_takes_the_mark_along_both_ways(rig):
    mover = Mover(rig)
    store(rig)
    clear(rig, DISK)
    pin(rig)
    assert mover.move(MEMORY, DISK, LONG).num_tokens == len(LONG)
    assert (held(rig, MEMORY), held(rig, DISK)) == (0, len(LONG))
    assert pinned(rig) == [0, 4 * FRAME_BYTES]
    assert mover.move(DISK, MEMORY, LONG).num_tokens == len(LONG)
    assert (held(rig, MEMORY), held(rig, DISK)) == (len(LONG), 0)
    assert pinned(rig) == [4 * SLOT_BYTES, 0]
    press(rig)
    assert report(rig).state is PinState.ACTIVE
    assert rig.hit(LONG) == len(LONG)


def test_a_move_ends_where_the_share_of_the_new_tier_does(engine):
    with engine.start(share=0.4) as rig:  # Pins may take four chunks of each tier.
        store(rig, OTHER[: 2 * CHUNK_TOKENS])
        with rig.engine.tiers.lock:
            rig.engine.tiers.pins.pin(ask(OTHER[: 2 * CHUNK_TOKENS], "memory"))
        store(rig)
        pin(rig)
        clear(rig, MEMORY, force=False)
        moved = Mover(rig).move(DISK, MEMORY, LONG)
        assert moved.num_tokens <= 2 * CHUNK_TOKENS, "those that came first, in whichever order"
        assert pinned(rig) == [4 * SLOT_BYTES, 2 * FRAME_BYTES]
        assert report(rig).state is PinState.ACTIVE
        assert rig.serve(LONG) == len(LONG) - 1


def test_a_move_to_where_nothing_is_held_is_refused_unless_another_copy_is(engine):
    with engine.start(memory=20, shared=True) as rig:
        mover = Mover(rig)
        store(rig)
        pin(rig)
        clear(rig, MEMORY)
        refused = mover.move(DISK, SHARED, LONG)
        assert refused.error == "conflict"
        assert "by p;" in refused.detail
        rig.serve(LONG)
        assert mover.move(DISK, SHARED, LONG).num_tokens == len(LONG)
        assert pinned(rig) == [4 * SLOT_BYTES, 0, 0]
        assert report(rig).state is PinState.ACTIVE
