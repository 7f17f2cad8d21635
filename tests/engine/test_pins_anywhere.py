"""Pins whose location is any: of each chunk the last copy that a tier holds stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lmcache_backend_local_disk.disk import Disk
from lmcache_core.api import BackendContext, Capability
from lmcache_core.api.connector import KVGroup
from lmcache_core.api.messages import ClearCommand, PinCommand, PlanCommand
from lmcache_core.api.pins import OnMissing, PinRequest, PinState, Renew
from lmcache_core.config import ANYWHERE, TierConfig, TierRules
from lmcache_core.errors import CapacityError, NotCachedError, UnknownNameError
from lmcache_core.keys import EMPTY_SCOPE, tokens_to_bytes
from lmcache_core.testing import DictBackend, DictConfig, DictStore
from tests.engine.hybrid_rig import HybridRig
from tests.engine.rig import BLOCK_TOKENS, CHUNK_TOKENS, FRAME_BYTES, SLOT_BYTES, Rig, storage_spec
from tests.engine.test_kept_pins import kept
from tests.engine.test_move import Mover, held
from tests.engine.test_pins import MEMORY, ask
from tests.engine.test_storage_tier import LONG, settle

DISK, SHARED = "LocalDiskBackend", "shared"
OTHER = list(range(7000, 7000 + 4 * CHUNK_TOKENS))
TAIL = list(range(CHUNK_TOKENS + 6))
"""A tail of half a block, which does not leave host memory."""


@pytest.fixture(autouse=True)
def _syncs(monkeypatch):
    """The first one waits for all that the machine writes; what it does the plugin's tests show."""
    monkeypatch.setattr(Disk, "sync", lambda *_, **__: None)


class Engine:
    """Engines over a disk and a store that others use, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = DictStore()

    def start(
        self,
        *,
        memory: int = 10,
        disk: int = 10,
        share: float = 0.8,
        shared: bool = False,
        write: str = "through",
    ) -> Rig:
        def make(*_: object) -> DictBackend:
            return DictBackend(DictConfig(), BackendContext(instance_id="rig", tier=SHARED), store)

        store = self.store
        options = {"path": str(self.folder), "scrub_rate": 0}
        tiers = [
            TierConfig(MEMORY, memory * SLOT_BYTES),
            TierConfig(DISK, disk * FRAME_BYTES, options, rules=TierRules(write, promote=False)),
        ]
        if shared:
            tiers.append(TierConfig(SHARED))
        spec = storage_spec(SHARED, make, Capability.SHARED | Capability.SELF_EVICTING)
        return Rig(
            chunks=memory,
            offers=[spec],
            overrides={"tiers": tuple(tiers), "instance_id": "rig", "pin_share": share},
        )


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


@pytest.fixture
def rig(engine: Engine) -> Iterator[Rig]:
    with engine.start() as rig:
        yield rig


def anywhere(tokens, pin_id="p", **fields) -> PinRequest:
    return ask(tokens, pin_id, **{"location": ANYWHERE, **fields})


def pin(rig, tokens=LONG, pin_id="p", **fields):
    with rig.engine.tiers.lock:
        return rig.engine.tiers.pins.pin(anywhere(tokens, pin_id, **fields))


def unpin(rig, pin_id="p", version=1):
    with rig.engine.tiers.lock:
        return rig.engine.tiers.pins.unpin(pin_id, version)


def report(rig, pin_id="p"):
    with rig.engine.tiers.lock:
        return rig.engine.tiers.pins.report(pin_id)


def store(rig, tokens=LONG):
    rig.serve(tokens)
    settle(rig)


def press(rig, base=100_000):
    """Compute more than any tier of the engine's own has room for."""
    for number in range(12):
        store(rig, [base + number * 100 + n for n in range(CHUNK_TOKENS)])


def clear(rig, location, *, force=True):
    tiers = rig.engine.tiers
    dropped = tiers.drop(location, tiers.keys(location), force=force)
    settle(rig)
    return dropped


def keys(rig, tokens=LONG):
    return rig.engine.tiers.chain_of(tokens_to_bytes(tokens), EMPTY_SCOPE).keys


def pinned(rig):
    """Bytes that pins take, by tier."""
    return [tier.pinned_bytes for tier in rig.engine.tiers.status()]


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


# -- moves -------------------------------------------------------------------


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


# -- pieces that no chunk is made of -----------------------------------------


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


# -- time, weights, models ---------------------------------------------------


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


# -- restarts ----------------------------------------------------------------


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
