"""Pins in any tier after a restart."""

from __future__ import annotations

import pytest

from lmcache_core.api.pins import PinState
from tests.engine.anywhere.engines import DISK, OTHER, pin, pinned, press, report, store
from tests.engine.kept_pins.keeping import kept
from tests.engine.rig import CHUNK_TOKENS, FRAME_BYTES, SLOT_BYTES
from tests.engine.test_move import Mover
from tests.engine.test_pins import MEMORY, ask
from tests.engine.test_storage_tier import LONG


def test_after_a_restart_what_the_disk_has_is_held_before_anything_is_evicted(engine):
    with engine.start() as rig:
        store(rig)
        pin(rig, ttl_seconds=500.0)
        kept(rig)
    with engine.start() as rig:
        press(rig)
        again = report(rig)
        assert (again.state, again.tokens_pinned) == (PinState.ACTIVE, len(LONG))
        assert again.ttl_seconds == pytest.approx(500.0, abs=60)
        assert pinned(rig) == [0, 4 * FRAME_BYTES]
        assert rig.serve(LONG) == len(LONG) - 1


def test_after_a_restart_what_was_in_host_memory_is_waited_for(engine):
    with engine.start(write="back") as rig:
        rig.serve(LONG)
        Mover(rig).move(MEMORY, DISK, LONG[: 2 * CHUNK_TOKENS])
        pin(rig)
        kept(rig)
    with engine.start(write="back") as rig:
        again = report(rig)
        assert (again.state, again.tokens_pinned) == (PinState.DEGRADED, 2 * CHUNK_TOKENS)
        assert pinned(rig) == [2 * SLOT_BYTES, 2 * FRAME_BYTES]
        rig.serve(LONG)
        assert report(rig).state is PinState.ACTIVE


def test_after_a_restart_pins_of_a_tier_have_their_room_before_those_of_any(engine):
    with engine.start(share=0.4) as rig:  # Pins may take four chunks of each tier.
        store(rig, OTHER)
        with rig.engine.tiers.lock:
            rig.engine.tiers.pins.pin(ask(OTHER, "disk", location=DISK))
        kept(rig, "disk")
        store(rig, LONG[: 2 * CHUNK_TOKENS])
        pin(rig, LONG[: 2 * CHUNK_TOKENS], "a")
        kept(rig, "a")
        assert pinned(rig) == [2 * SLOT_BYTES, 4 * FRAME_BYTES]
    with engine.start(share=0.4) as rig:
        kept(rig, "disk")
        assert report(rig, "disk").state is PinState.ACTIVE
        assert report(rig, "a").tokens_pinned == 0
        assert report(rig, "a").reserved_bytes == 2 * SLOT_BYTES


def test_after_a_restart_with_less_room_a_pin_holds_what_fits(engine):
    with engine.start() as rig:
        store(rig)
        pin(rig)
        kept(rig)
    with engine.start(memory=2, disk=5) as rig:
        assert report(rig).state is PinState.ACTIVE
    with engine.start(memory=2, disk=4) as rig:  # Pins may take three of it, and one in memory.
        again = report(rig)
        assert (again.state, again.tokens_pinned) == (PinState.DEGRADED, 3 * CHUNK_TOKENS)
        assert again.reserved_bytes == SLOT_BYTES
