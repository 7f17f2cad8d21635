"""What a store has kept from before: taken in at the start, verified, set aside if spoilt."""

from __future__ import annotations

import threading

import pytest

from lmcache_core.api import Capability
from lmcache_core.api.pins import OnMissing
from lmcache_core.engine.storage import recovery
from lmcache_core.engine.storage import tier as storage_tier
from lmcache_core.errors import BackendError
from lmcache_core.testing import DictStore
from tests.engine.kept_pins.keeping import report
from tests.engine.rig import CHUNK_TOKENS, FRAME_BYTES, Rig, storage_spec
from tests.engine.test_pins import ask
from tests.engine.test_storage_tier import LONG, Watched, below, flood, settle


class Kept(Watched):
    """A store that outlives its engine."""

    def __init__(self, store):
        super().__init__()
        self._store = store
        self.scanned = []

    def scan(self):
        for key, nbytes in super().scan():
            self.scanned.append(key)
            yield key, nbytes


KEPT = Capability.DURABLE | Capability.SCAN


def kept_rig(store, capabilities=KEPT, **fields):
    backend = Kept(store)
    spec = storage_spec("dict", lambda _config, _context: backend, capabilities)
    return Rig(chunks=8, storage=[spec], **fields)


@pytest.fixture
def store():
    """What an engine has left behind of a prompt of four chunks."""
    store = DictStore()
    with kept_rig(store) as rig:
        rig.serve(LONG)
        settle(rig)
    assert len(store.frames) == 4
    return store


def test_a_restarted_engine_hits_what_the_store_has_kept(store):
    with kept_rig(store) as rig:
        assert (below(rig).entries, below(rig).used_bytes) == (4, 4 * FRAME_BYTES)
        assert rig.engine.counters()["dict.recovered_frames"] == 4
        assert rig.serve(LONG) == len(LONG) - 1


def test_a_store_without_scan_and_one_that_others_share_are_not_gone_through(store):
    for capabilities in (Capability.DURABLE, KEPT | Capability.SHARED):
        with kept_rig(store, capabilities) as rig:
            settle(rig)
            assert below(rig).entries == 0


def test_what_was_kept_and_is_above_a_lower_limit_goes_in_the_order_it_was_told(store):
    told = list(store.frames)
    with kept_rig(store, storage_chunks=2) as rig:
        settle(rig)
        assert below(rig).used_bytes == 2 * FRAME_BYTES
        assert list(store.frames) == told[2:]


@pytest.mark.parametrize("batch", [1, 3, 256])
def test_a_frame_that_is_told_twice_counts_once(store, monkeypatch, batch):
    monkeypatch.setattr(recovery, "BATCH_FRAMES", batch)

    class Repeating(Kept):
        def scan(self):
            for frame in super().scan():
                yield from (frame, frame)

    backend = Repeating(store)
    spec = storage_spec("dict", lambda _config, _context: backend, KEPT)
    with Rig(chunks=8, storage=[spec]) as rig:
        settle(rig)
        assert (below(rig).entries, below(rig).used_bytes) == (4, 4 * FRAME_BYTES)
        assert rig.engine.counters()["dict.recovered_frames"] == 4


def test_what_was_taken_in_is_served_while_the_rest_is_still_being_told(store, monkeypatch):
    monkeypatch.setattr(storage_tier, "RECOVER_SECONDS", 0)
    monkeypatch.setattr(recovery, "BATCH_FRAMES", 2)
    taken, gate = threading.Event(), threading.Event()

    class Halting(Kept):
        def scan(self):
            for number, frame in enumerate(super().scan()):
                if number == 2:
                    taken.set()
                    gate.wait(30)
                yield frame

    backend = Halting(store)
    spec = storage_spec("dict", lambda _config, _context: backend, KEPT)
    with Rig(chunks=8, storage=[spec]) as rig:
        assert taken.wait(30)
        try:
            assert rig.serve(LONG) == 2 * CHUNK_TOKENS
        finally:
            gate.set()


def test_frames_of_another_namespace_are_counted_and_evicted_and_never_served(store):
    for number, frame in enumerate(list(store.frames.values())):
        store.frames[bytes([number]) * 32] = frame
    with kept_rig(store, storage_chunks=8) as rig:
        assert below(rig).used_bytes == 8 * FRAME_BYTES
        for number in range(8):
            flood(rig, 1, base=50_000 + number * 100)
            settle(rig)
        assert below(rig).used_bytes == 8 * FRAME_BYTES
        assert not [key for key in store.frames if len(set(key)) == 1]


def test_cleared_tokens_of_kept_frames_are_counted_before_they_are_read(store):
    with kept_rig(store) as rig:
        tiers = rig.engine.tiers
        assert tiers.drop("dict", tiers.keys("dict"), force=False) == len(LONG)
        settle(rig)
        assert store.frames == {}


def test_a_store_that_takes_long_to_tell_does_not_hold_up_the_start(store, monkeypatch):
    monkeypatch.setattr(storage_tier, "RECOVER_SECONDS", 0.01)
    gate = threading.Event()

    class Slow(Kept):
        def scan(self):
            gate.wait(30)
            yield from super().scan()

    backend = Slow(store)
    spec = storage_spec("dict", lambda _config, _context: backend, KEPT)
    with Rig(chunks=8, storage=[spec]) as rig:
        request = ask(LONG, location="dict", on_missing=OnMissing.RESERVE)
        assert rig.engine.tiers.pins.pin(request).tokens_pinned == 0
        assert rig.hit(LONG) == 0
        gate.set()
        settle(rig)
        assert report(rig).tokens_pinned == len(LONG)
        assert rig.serve(LONG) == len(LONG) - 1


def test_a_scan_that_fails_leaves_what_it_has_told(store, monkeypatch):
    monkeypatch.setattr(recovery, "BATCH_FRAMES", 1)

    class Failing(Kept):
        def scan(self):
            scan = super().scan()
            yield next(scan)
            raise OSError("gone")

    backend = Failing(store)
    spec = storage_spec("dict", lambda _config, _context: backend, KEPT)
    with Rig(chunks=8, storage=[spec]) as rig:
        settle(rig)
        assert below(rig).entries == 1
        assert not below(rig).healthy


def test_a_vanished_frame_is_a_miss_that_is_counted_and_written_anew(store):
    with kept_rig(store) as rig:
        first = next(iter(store.frames))
        store.frames.pop(first)
        assert rig.serve(LONG) == 0
        settle(rig)
        assert rig.engine.counters()["dict.missing_frames"] == 1
        assert rig.engine.counters()["dict.damaged_frames"] == 0
        assert first in store.frames
        assert below(rig).entries == 4


class Aside(Kept):
    """Keeps what was quarantined, with the reason."""

    def __init__(self, store):
        super().__init__(store)
        self.aside = {}

    def quarantine(self, keys, reasons, deadline):
        self.aside.update(zip(keys, reasons, strict=True))
        return super().quarantine(keys, reasons, deadline)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda frame: frame + b"\0", "expected"),
        (lambda frame: frame[:-1], "expected"),
        (lambda frame: frame[:-1] + bytes([frame[-1] ^ 1]), "checksum of the payload"),
        (lambda frame: bytes(len(frame)), "not a frame"),
    ],
    ids=["longer", "shorter", "a bit", "zeros"],
)
def test_a_damaged_frame_is_quarantined_with_its_reason_and_written_anew(store, spoil, reason):
    first = next(iter(store.frames))
    good = store.frames[first]
    store.frames[first] = spoil(good)
    backend = Aside(store)
    spec = storage_spec("dict", lambda _config, _context: backend, KEPT)
    with Rig(chunks=8, storage=[spec]) as rig:
        assert rig.serve(LONG) == 0
        settle(rig)
        assert rig.engine.counters()["dict.damaged_frames"] == 1
        assert rig.engine.counters()["dict.missing_frames"] == 0
        assert list(backend.aside) == [first]
        assert reason in backend.aside[first]
        flood(rig)
        settle(rig)
        assert len(store.frames[first]) == len(good)
        assert rig.serve(LONG) == len(LONG) - 1


def test_a_frame_that_cannot_be_evicted_still_counts(store):
    class Stuck(Kept):
        def remove(self, keys, deadline):
            raise BackendError("read-only")

    backend = Stuck(store)
    spec = storage_spec("dict", lambda _config, _context: backend, KEPT)
    with Rig(chunks=8, storage=[spec], storage_chunks=4) as rig:
        rig.serve([7000 + i for i in range(CHUNK_TOKENS)])
        settle(rig)
        assert set(store.frames) == set(rig.engine.tiers.storage[0].residents)
        assert below(rig).used_bytes == 4 * FRAME_BYTES
        counters = rig.engine.counters()
        assert (counters["dict.evictions"], counters["dict.put_failures"]) == (0, 1)
