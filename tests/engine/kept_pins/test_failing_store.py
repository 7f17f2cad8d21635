"""A store that takes no records, or has room for none."""

from __future__ import annotations

import time

import pytest

from lmcache_core.api import Capability
from lmcache_core.api.frames import is_record
from lmcache_core.api.pins import OnMissing, PinState
from lmcache_core.engine.frames.record import Record, new_key, pack
from lmcache_core.engine.storage import records
from lmcache_core.errors import BackendError
from lmcache_core.testing.dict_backend import DictBackend, DictStore
from tests.engine.kept_pins.keeping import kept, report
from tests.engine.rig import Rig, storage_spec
from tests.engine.test_pins import ask
from tests.engine.test_storage_tier import LONG, below, flood, settle


class FailingBackend(DictBackend):
    """A store of its own that takes no records while it is told not to."""

    def __init__(self, store):
        super().__init__(None, None, store)
        self.fails = False
        self.syncs = 0

    def put(self, keys, frames, deadline):
        if self.fails and is_record(keys[0]):
            raise BackendError("no records today")
        return super().put(keys, frames, deadline)

    def sync(self, deadline):
        self.syncs += 1
        if self.fails:
            raise BackendError("no sync today")


@pytest.fixture
def failing(monkeypatch):
    monkeypatch.setattr(records, "RETRY_SECONDS", 0.05)
    backend = FailingBackend(DictStore())
    capabilities = Capability.DURABLE | Capability.SYNC | Capability.SCAN
    spec = storage_spec("Durable", lambda _config, _context: backend, capabilities)
    with Rig(storage=[spec]) as rig:
        rig.serve(LONG)
        settle(rig)
        yield rig, backend


def test_what_cannot_be_kept_is_pending_and_tried_again(failing):
    rig, backend = failing
    backend.fails = True
    with rig.engine.tiers.lock:
        made = rig.engine.tiers.pins.pin(ask(LONG, location="Durable"))
        receipt = rig.engine.tiers.keeping.receipt("p")
    assert (made.state, made.tokens_pinned) == (PinState.PENDING, 0)
    while not receipt.over:
        time.sleep(0.001)
    assert "today" in receipt.failure
    flood(rig)
    backend.fails = False
    assert report(rig).state is PinState.ACTIVE
    assert len([key for key in backend._store.frames if is_record(key)]) == 1


def test_many_pins_share_a_sync(failing):
    rig, backend = failing
    with rig.engine.tiers.lock:
        for number in range(50):
            rig.engine.tiers.pins.pin(ask(LONG, f"p{number}", location="Durable"))
    for number in range(50):
        kept(rig, f"p{number}")
    assert backend.syncs <= 2


def test_a_full_store_makes_room_for_a_record(monkeypatch):
    backend = FailingBackend(DictStore())
    capabilities = Capability.DURABLE | Capability.SYNC | Capability.SCAN
    spec = storage_spec("Durable", lambda _config, _context: backend, capabilities)
    with Rig(storage=[spec], chunks=8) as rig:
        flood(rig, chunks=4)
        settle(rig)
        backend._store.max_bytes = backend._store.used_bytes
        with rig.engine.tiers.lock:
            rig.engine.tiers.pins.pin(ask(LONG, on_missing=OnMissing.RESERVE))
        kept(rig)
        assert below(rig).entries == 2
        assert len([key for key in backend._store.frames if is_record(key)]) == 1


def test_of_two_records_of_a_pin_the_later_counts(failing):
    rig, backend = failing
    with rig.engine.tiers.lock:
        rig.engine.tiers.pins.pin(ask(LONG, location="Durable", version=3))
    kept(rig)
    (key,) = [key for key in backend._store.frames if is_record(key)]
    instance = rig.config.instance_id
    stale = new_key(instance)
    backend.put([stale], [pack(Record("p", 1, instance, b"stale"), stale, b"n" * 32)], None)
    rig.engine.close()
    again = FailingBackend(backend._store)
    capabilities = Capability.DURABLE | Capability.SYNC | Capability.SCAN
    with Rig(storage=[storage_spec("Durable", lambda _c, _x: again, capabilities)]) as new:
        kept(new)
        assert report(new).version == 3
        settle(new)
        while [k for k in again._store.frames if is_record(k)] != [key]:
            time.sleep(0.001)
