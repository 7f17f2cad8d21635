"""Records of live pins that are lost, to flipped bits or otherwise: they are written anew."""

from __future__ import annotations

import threading
import time

import pytest

from lmcache_backend_local_disk.disk import Disk
from lmcache_backend_local_disk.scrub import AFTER_A_PASS_SECONDS, Scrub
from lmcache_core.api import Capability
from lmcache_core.api.frames import is_record
from lmcache_core.api.pins import PinState
from lmcache_core.engine.frames.record import new_key
from lmcache_core.engine.storage import records
from lmcache_core.errors import BackendError
from lmcache_core.testing import DictBackend, DictConfig, DictStore
from tests.controller.engine_peer import eventually
from tests.engine.kept_pins.keeping import engine, kept, pin, record_files, report, unpin
from tests.engine.rig import Rig, storage_spec
from tests.engine.test_local_disk import Folder
from tests.engine.test_pins import MEMORY
from tests.engine.test_storage_tier import LONG, flood, settle


@pytest.fixture(autouse=True)
def _syncs(monkeypatch):
    """The first one waits for all that the machine writes; what it does the plugin's tests show."""
    monkeypatch.setattr(Disk, "sync", lambda *_, **__: None)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def scrub(rig):
    """Let the engine's own disk be gone through once."""
    backend = rig.engine.tiers.storage[0]._calls._backend
    one = Scrub(backend._disks, 1e9, backend._calls, backend._metrics, backend._events)
    while one.step() != AFTER_A_PASS_SECONDS:
        pass


def flip(file, at):
    with file.open("r+b") as opened:
        opened.seek(at, 2 if at < 0 else 0)
        (byte,) = opened.read(1)
        opened.seek(-1, 1)
        opened.write(bytes([byte ^ 1]))


def written_anew(folder, old):
    """Wait until there is one record, another one."""
    (new,) = eventually(lambda: [f for f in record_files(folder) if f not in old])
    return new


@pytest.mark.parametrize("at", [40, 4096, -1])
def test_a_record_that_a_scrub_quarantines_under_a_live_pin_is_there_at_the_next_start(folder, at):
    with engine(folder) as rig:
        rig.serve(LONG)
        settle(rig)
        assert pin(rig, ttl_seconds=600).state is PinState.ACTIVE
        files = record_files(folder)
        flip(files[0], at)
        scrub(rig)
        written_anew(folder, files)
        assert report(rig).state is PinState.ACTIVE
        assert len(folder.quarantined()) == 1
    with engine(folder) as rig:
        flood(rig, chunks=40)
        settle(rig)
        held = report(rig)
        assert (held.state, held.tokens_pinned) == (PinState.ACTIVE, len(LONG))
        assert 0 < held.ttl_seconds <= 600


@pytest.mark.parametrize("location", [MEMORY, "any"])
def test_so_is_that_of_a_pin_elsewhere_and_one_that_somebody_has_removed(folder, location):
    with engine(folder) as rig:
        rig.serve(LONG)
        settle(rig)
        pin(rig, location=location)
        files = record_files(folder)
        files[0].unlink()
        scrub(rig)
        written_anew(folder, files)
    with engine(folder) as rig:
        rig.serve(LONG)
        settle(rig)
        assert report(rig).state is PinState.ACTIVE


def test_which_ledger_the_pins_are_in_is_written_anew(folder):
    with engine(folder) as rig:
        with rig.engine.tiers.lock:
            rig.engine.tiers.keeping.serve("the-ledger")
        files = eventually(lambda: record_files(folder))
        flip(files[0], 4100)
        scrub(rig)
        written_anew(folder, files)
    with engine(folder) as rig:
        assert rig.engine.tiers.keeping.ledger_id == "the-ledger"


def test_a_pin_that_is_released_then_stays_released(folder):
    with engine(folder) as rig:
        rig.serve(LONG)
        settle(rig)
        pin(rig)
        files = record_files(folder)
        flip(files[0], 4100)
        scrub(rig)
        written_anew(folder, files)
        kept(rig)
        assert unpin(rig) == len(LONG)
        assert record_files(folder) == []
    with engine(folder) as rig:
        assert report(rig) is None


class Telling(DictBackend):
    """Says what it is told to say of its keys, and loses what it cannot sync."""

    def __init__(self, context, store):
        super().__init__(DictConfig(), context, store)
        self.events = context.events
        self.fails = False
        self.syncs = 0
        self.failed = threading.Event()

    def records(self):
        with self._store.lock:
            return [key for key in self._store.frames if is_record(key)]

    def sync(self, deadline):
        self.syncs += 1
        if self.fails:
            lost = self.records()
            self.remove(lost, deadline)
            self.events.gone(lost)
            self.failed.set()
            raise BackendError("no sync today")


@pytest.fixture
def telling(monkeypatch):
    made = []

    def start(store):
        def make(_config, context):
            made.append(Telling(context, store))
            return made[-1]

        capabilities = Capability.DURABLE | Capability.SYNC | Capability.SCAN
        return Rig(storage=[storage_spec("Durable", make, capabilities)]), made[-1]

    return start


def pinned(rig):
    rig.serve(LONG)
    settle(rig)
    return pin(rig, location="Durable")


def test_a_store_that_only_says_that_a_record_is_gone_brings_no_pin_back(telling):
    store = DictStore()
    rig, backend = telling(store)
    with rig:
        pinned(rig)
        old = backend.records()
        others = [new_key("another"), new_key(rig.config.instance_id), b"x" * 32]
        backend.events.gone([*old, *others])
        eventually(lambda: len(backend.records()) == 1 and backend.records() != old)
        assert report(rig).state is PinState.ACTIVE
        assert unpin(rig) == len(LONG)
        assert backend.records() == []
    rig, _ = telling(store)
    with rig:
        assert report(rig) is None


def test_a_record_that_cannot_be_written_anew_is_tried_again_and_the_pin_says_so(
    telling, monkeypatch
):
    pause = 0.2
    monkeypatch.setattr(records, "RETRY_SECONDS", pause)
    rig, backend = telling(DictStore())
    with rig:
        pinned(rig)
        backend.fails = True
        syncs, began = backend.syncs, time.monotonic()
        backend.events.gone(backend.records())
        assert backend.failed.wait(10)
        held = report(rig, wait=False)
        assert (held.state, held.tokens_pinned) == (PinState.PENDING, 0)
        backend.failed.clear()
        assert backend.failed.wait(10), "tried again"
        # And after a pause, although each try has lost it anew.
        assert backend.syncs - syncs <= 2 + (time.monotonic() - began) / pause
        backend.fails = False
        assert report(rig).state is PinState.ACTIVE
        assert len(backend.records()) == 1
