"""More records than are in memory at once, found in any order when an engine starts."""

from __future__ import annotations

import random

import pytest

from lmcache_core.api import Capability
from lmcache_core.api.frames import is_record
from lmcache_core.api.pins import PinState
from lmcache_core.engine.storage import record_shelf
from lmcache_core.engine.tiers.restoring import PinRestoring
from lmcache_core.testing import DictBackend, DictConfig, DictStore
from tests.engine.kept_pins.keeping import clock_says, pin, report
from tests.engine.rig import CHUNK_TOKENS, FRAME_BYTES, Rig, storage_spec
from tests.engine.test_storage_tier import LONG, below, settle

NAME = "Durable"
KEEPS = Capability.DURABLE | Capability.SYNC | Capability.SCAN
PINS = 40


class Syncing(DictBackend):
    def __init__(self, store, unreadable):
        super().__init__(DictConfig(), None, store)
        self.unreadable = unreadable
        self.read: dict[bytes, int] = {}

    def sync(self, deadline):
        pass

    def remove(self, keys, deadline):
        """Leave records, as a kill before the removal does."""
        return super().remove([key for key in keys if not is_record(key)], deadline)

    def get(self, keys, buffers, deadline):
        for key in keys:
            self.read[key] = self.read.get(key, 0) + 1
        found = super().get(keys, buffers, deadline)
        # Spoilt after it was read for the first time.
        spoilt = [key == self.unreadable and self.read[key] > 1 for key in keys]
        return [None if bad else length for bad, length in zip(spoilt, found, strict=True)]


@pytest.fixture(params=[0, 64 << 20], ids=["read twice", "read once"])
def read_once_bytes(request, monkeypatch):
    monkeypatch.setattr(record_shelf, "READ_ONCE_BYTES", request.param)
    monkeypatch.setattr(record_shelf, "READ_AT_ONCE", 4)
    return request.param


def rig_over(store, *, unreadable=b"", **fields):
    backend = Syncing(store, unreadable)
    return Rig(storage=[storage_spec(NAME, lambda *_: backend, KEEPS)], **fields), backend


def shuffled(store, seed):
    """Let a scan tell the frames in another order."""
    names = list(store.frames)
    random.Random(seed).shuffle(names)
    store.frames = {name: store.frames[name] for name in names}


def records_in(store):
    return [key for key in store.frames if is_record(key)]


@pytest.fixture
def store():
    """Has three records of each pin, the later ones of longer times, and its chunk."""
    store = DictStore()
    rig, _ = rig_over(store, chunks=2 * PINS, storage_chunks=4 * PINS)
    with rig:
        for version in (1, 2, 3):
            for number in range(PINS):
                tokens = [number * 100 + place for place in range(CHUNK_TOKENS)]
                rig.serve(tokens)
                settle(rig)
                times = {"version": version, "ttl_seconds": 1000.0 * version}
                pin(rig, tokens, f"p{number}", location=NAME, **times)
    assert len(records_in(store)) == 3 * PINS
    return store


@pytest.mark.parametrize("seed", range(2))
def test_the_latest_of_each_name_counts_in_whatever_order_they_are_found(
    store, read_once_bytes, monkeypatch, seed
):
    shuffled(store, seed)
    handed = []
    take = PinRestoring.take

    def watched(self, tier, records, *rest):
        handed.append([record.name for record in records])
        return take(self, tier, records, *rest)

    monkeypatch.setattr(PinRestoring, "take", watched)
    rig, backend = rig_over(store, chunks=2 * PINS, storage_chunks=4 * PINS)
    with rig:
        settle(rig)
        for number in range(PINS):
            held = report(rig, f"p{number}")
            assert (held.version, held.state) == (3, PinState.ACTIVE)
            assert 2000 < held.ttl_seconds <= 3000
        assert max(map(len, handed)) <= 4
        assert sorted(name for part in handed for name in part) == sorted(
            f"p{number}" for number in range(PINS)
        )
        # Those of which there is a later one count until they are removed; here they stay.
        assert max(backend.read[key] for key in records_in(store)) == (1 if read_once_bytes else 2)


def test_a_record_that_goes_between_being_found_and_taken_in_costs_its_pin_alone(
    monkeypatch,
):
    monkeypatch.setattr(record_shelf, "READ_ONCE_BYTES", 0)
    store = DictStore()
    rig, _ = rig_over(store)
    with rig:
        rig.serve(LONG)
        settle(rig)
        for number in range(6):
            pin(rig, pin_id=f"p{number}", location=NAME)
    rig, _ = rig_over(store, unreadable=records_in(store)[2])
    with rig:
        settle(rig)
        held = [number for number in range(6) if report(rig, f"p{number}") is not None]
        assert held == [0, 1, 3, 4, 5]
        assert len(records_in(store)) == 6, "it may be read at the next start"
        pin(rig, pin_id="p2", location=NAME)
        assert report(rig, "p2").state is PinState.ACTIVE


def test_no_clock_that_went_back_brings_an_older_pin_back(read_once_bytes, monkeypatch):
    store = DictStore()
    rig, _ = rig_over(store)
    with rig:
        rig.serve(LONG)
        settle(rig)
        pin(rig, pin_id="short", location=NAME, ttl_seconds=1e-3)
        pin(rig, pin_id="long", location=NAME)
    clock_says(monkeypatch, 1.0)
    rig, _ = rig_over(store)
    with rig:
        settle(rig)
        assert report(rig, "long").state is PinState.ACTIVE
        assert report(rig, "short") is None


@pytest.mark.parametrize("seed", range(3))
def test_pins_of_any_tier_are_made_after_those_of_one(read_once_bytes, seed):
    store = DictStore()
    rig, _ = rig_over(store, storage_chunks=20)
    with rig:
        for number in range(8):
            rig.serve([number * 100 + place for place in range(CHUNK_TOKENS)])
            settle(rig)
        for number in range(8):
            tokens = [number * 100 + place for place in range(CHUNK_TOKENS)]
            pin(rig, tokens, f"p{number}", location="any" if number < 4 else NAME)
    shuffled(store, seed)
    # Pins may take four fifths: there is room for six chunks.
    rig, _ = rig_over(store, storage_chunks=8)
    with rig:
        settle(rig)
        for number in range(4, 8):
            assert report(rig, f"p{number}").state is PinState.ACTIVE
        assert below(rig).pinned_bytes <= 0.8 * 8 * FRAME_BYTES
