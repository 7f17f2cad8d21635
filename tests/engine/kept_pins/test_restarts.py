"""Pins that a durable tier keeps: there again after a restart, before anything is evicted."""

from __future__ import annotations

import threading

import pytest

from lmcache_core.api import Capability
from lmcache_core.api.frames import is_record
from lmcache_core.api.pins import PinState
from lmcache_core.engine.storage.record_shelf import RecordShelf
from lmcache_core.testing.dict_backend import DictBackend, DictStore
from tests.engine.kept_pins.keeping import engine, kept, pin, record_files, report, unpin
from tests.engine.rig import FRAME_BYTES, Rig, storage_spec
from tests.engine.test_local_disk import NAME
from tests.engine.test_pins import MEMORY, ask
from tests.engine.test_storage_tier import LONG, below, flood, settle


@pytest.fixture
def late(monkeypatch):
    """What a store has kept is taken in once this is set, and an engine does not wait for it."""
    go = threading.Event()
    take = RecordShelf.take_in

    def take_late(self, *args):
        assert go.wait(20)
        take(self, *args)

    monkeypatch.setattr(RecordShelf, "take_in", take_late)
    monkeypatch.setattr("lmcache_core.engine.storage.tier.RECOVER_SECONDS", 0.01)
    return go


def test_what_is_pinned_stays_through_a_flood_that_starts_at_once(pinned):
    with engine(pinned) as rig:
        flood(rig, chunks=40)
        settle(rig)
        assert report(rig).state is PinState.ACTIVE
        assert rig.hit(LONG) == len(LONG)
        assert below(rig).pinned_bytes == 4 * FRAME_BYTES


def test_what_is_above_a_lower_limit_goes_and_what_is_pinned_stays(pinned):
    with engine(pinned) as rig:
        flood(rig)
        settle(rig)
    with pinned.engine(chunks=7) as rig:
        settle(rig)
        assert below(rig).used_bytes <= 7 * FRAME_BYTES
        assert rig.hit(LONG) == len(LONG)


def test_a_released_pin_stays_released(pinned):
    with engine(pinned) as rig:
        assert unpin(rig) == len(LONG)
    assert record_files(pinned) == []
    with engine(pinned) as rig:
        assert report(rig) is None


def test_a_release_before_the_store_was_gone_through_holds(pinned, late):
    with engine(pinned) as rig:
        with rig.engine.tiers.lock:
            assert rig.engine.tiers.pins.unpin("p", 1) == 0
            rig.engine.tiers.keeping.release("p")
            assert not rig.engine.tiers.keeping.receipt("p").over
        late.set()
        kept(rig)
        assert record_files(pinned) == []
        assert report(rig) is None


def test_a_higher_version_that_came_first_is_not_replaced(pinned, late):
    for version, held in ((2, 2), (1, 2)):
        late.clear()
        with engine(pinned) as rig:
            with rig.engine.tiers.lock:
                rig.engine.tiers.pins.pin(ask(LONG[:16], location=NAME, version=version))
            late.set()
            settle(rig)
            kept(rig)
            assert report(rig).version == held
            assert len(record_files(pinned)) == 1


def test_a_change_takes_the_place_of_the_record(pinned):
    with engine(pinned) as rig:
        pin(rig, version=2, ttl_seconds=500)
        assert len(record_files(pinned)) == 1
    with engine(pinned) as rig:
        assert report(rig).version == 2
        assert 400 < report(rig).ttl_seconds < 500


def test_a_pin_in_host_memory_waits_for_its_prompt_again(folder):
    with engine(folder) as rig:
        rig.serve(LONG)
        assert pin(rig, location=MEMORY).state is PinState.ACTIVE
        partial = pin(rig, [*LONG, *range(900, 932)], "part", location=MEMORY)
        assert partial.tokens_pinned == len(LONG)
    with engine(folder) as rig:
        assert report(rig).state is PinState.PENDING
        assert report(rig).reserved_bytes
        rig.serve(LONG)
        assert report(rig).state is PinState.ACTIVE
        flood(rig)
        assert (report(rig).tokens_pinned, report(rig, "part").tokens_pinned) == (64, 64)
        rig.serve([*LONG, *range(900, 932)])
        assert report(rig, "part").tokens_pinned == len(LONG), "it did not ask for what is behind"


def test_what_no_longer_fits_is_said_and_not_marked(pinned):
    with pinned.engine(chunks=4) as rig:
        settle(rig)
        assert report(rig) is None
        assert below(rig).pinned_bytes == 0


def test_an_engine_without_a_durable_tier_keeps_nothing():
    store = DictStore()
    spec = storage_spec("Volatile", lambda c, x: DictBackend(c, x, store), Capability.SCAN)
    with Rig(storage=[spec]) as rig:
        assert rig.engine.tiers.pins.keeping is None
        rig.serve(LONG)
        assert rig.engine.tiers.pins.pin(ask(LONG)).state is PinState.ACTIVE
        settle(rig)
    assert not any(map(is_record, store.frames))
