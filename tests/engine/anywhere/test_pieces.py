"""Pins in any tier whose tokens no chunk is made of: beginnings of chunks, and tails."""

from __future__ import annotations

import pytest

from lmcache_core.api.pins import OnMissing, PinState
from lmcache_core.keys import EMPTY_SCOPE, tokens_to_bytes
from tests.engine.anywhere.engines import (
    DISK,
    OTHER,
    clear,
    keys,
    pin,
    pinned,
    press,
    report,
    store,
    unpin,
)
from tests.engine.rig import BLOCK_TOKENS, CHUNK_TOKENS, FRAME_BYTES, SLOT_BYTES
from tests.engine.test_move import Mover
from tests.engine.test_pins import MEMORY, ask
from tests.engine.test_storage_tier import LONG, settle

TAIL = list(range(CHUNK_TOKENS + 6))
"""A tail of half a block, which does not leave host memory."""


def test_the_beginning_of_a_longer_chunk_is_held_in_host_memory(rig):
    store(rig)
    begun = LONG[: CHUNK_TOKENS + 5]
    made = pin(rig, begun)
    assert (made.state, made.tokens_pinned) == (PinState.ACTIVE, len(begun))
    assert made.pinned_bytes == sum(pinned(rig)) == FRAME_BYTES + SLOT_BYTES
    whole = pin(rig, LONG, "whole")
    assert pinned(rig) == [SLOT_BYTES, 4 * FRAME_BYTES]
    press(rig)
    assert rig.hit(begun) == len(begun)
    refused = Mover(rig).move(MEMORY, DISK, LONG)
    assert refused.error == "conflict", "on the disk it would be found as a whole alone"
    clear(rig, MEMORY)
    assert (report(rig).state, report(rig).tokens_pinned) == (PinState.DEGRADED, CHUNK_TOKENS)
    assert report(rig, "whole").tokens_pinned == whole.tokens_pinned
    unpin(rig)
    unpin(rig, "whole")
    assert pinned(rig) == [0, 0]


def test_a_tail_that_a_longer_chunk_takes_the_place_of_goes_on_being_held(rig):
    store(rig, TAIL)
    assert pin(rig, TAIL).tokens_pinned == len(TAIL)
    assert pinned(rig) == [SLOT_BYTES, FRAME_BYTES]
    store(rig)
    made = report(rig)
    assert (made.state, made.tokens_pinned) == (PinState.ACTIVE, len(TAIL))
    press(rig)
    assert rig.hit(TAIL) == len(TAIL)
    unpin(rig)
    assert pinned(rig) == [0, 0]


@pytest.mark.parametrize("room", [True, False])
def test_a_tail_that_the_disk_loses_is_held_in_the_longer_chunk_if_there_is_room(engine, room):
    tail = list(range(CHUNK_TOKENS + 2 * BLOCK_TOKENS))
    with engine.start(share=0.4) as rig:  # Pins may take four chunks of each tier.
        store(rig, tail)
        pin(rig, tail)
        assert pinned(rig)[0] == 0
        store(rig)
        if not room:
            rig.serve(OTHER)
            with rig.engine.tiers.lock:
                rig.engine.tiers.pins.pin(ask(OTHER, "memory"))
        clear(rig, DISK)
        if room:
            assert report(rig).state is PinState.ACTIVE
            assert pinned(rig) == [2 * SLOT_BYTES, 0]
        else:
            assert (report(rig).state, report(rig).tokens_pinned) == (PinState.DEGRADED, 0)
            assert pinned(rig) == [4 * SLOT_BYTES, 0]


def test_less_than_was_held_does_not_take_its_place(rig):
    tail = list(range(CHUNK_TOKENS + 2 * BLOCK_TOKENS))
    store(rig, tail)
    pin(rig, tail)
    clear(rig, MEMORY)
    fork = [*tail[:-3], *range(800, 811)]
    store(rig, fork)
    assert rig.engine.tiers.covered(tokens_to_bytes(tail), EMPTY_SCOPE)[MEMORY] == len(tail) - 3
    clear(rig, DISK)
    assert (report(rig).state, report(rig).tokens_pinned) == (PinState.DEGRADED, CHUNK_TOKENS)


def test_nothing_is_held_behind_a_piece_of_which_only_the_beginning_is_there(rig):
    store(rig)
    rig.engine.tiers.drop(MEMORY, keys(rig), force=True)
    rig.engine.tiers.drop(DISK, keys(rig)[1:2], force=True)
    settle(rig)
    store(rig, [*LONG[: CHUNK_TOKENS + 10], *range(800, 806)])
    assert pin(rig).tokens_pinned == CHUNK_TOKENS + 10
    assert pinned(rig) == [SLOT_BYTES, FRAME_BYTES]


def test_what_covers_a_beginning_is_let_go_of_when_the_whole_comes(rig):
    fork = LONG[: CHUNK_TOKENS - 6]
    store(rig, [*fork, *range(800, 806)])
    first = LONG[:CHUNK_TOKENS]
    made = pin(rig, first, on_missing=OnMissing.RESERVE)
    assert (made.tokens_pinned, pinned(rig)) == (len(fork), [2 * SLOT_BYTES, 0])
    store(rig, first)
    assert report(rig).state is PinState.ACTIVE
    assert pinned(rig) == [0, FRAME_BYTES]


def test_a_piece_of_which_only_the_beginning_is_there_is_whole_when_it_comes(rig):
    store(rig, TAIL)
    made = pin(rig, LONG, on_missing=OnMissing.RESERVE)
    assert made.tokens_pinned == len(TAIL)
    store(rig)
    assert report(rig).state is PinState.ACTIVE
    assert pinned(rig) == [0, 4 * FRAME_BYTES]
