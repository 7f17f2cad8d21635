"""Pins that a durable tier keeps: there again after a restart, before anything is evicted."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from lmcache_backend_local_disk.calls import SYSTEM
from lmcache_backend_local_disk.disk import Disk
from lmcache_core.api import Capability
from lmcache_core.api.frames import is_record
from lmcache_core.api.pins import OnMissing, PinState, Renew
from lmcache_core.cli.main import main
from lmcache_core.engine.frames.record import Record, new_key, pack
from lmcache_core.engine.storage import record_shelf, records
from lmcache_core.engine.tiers import restoring
from lmcache_core.errors import BackendError
from lmcache_core.testing.dict_backend import DictBackend, DictStore
from tests.engine.rig import CHUNK_TOKENS, FRAME_BYTES, Rig, storage_spec
from tests.engine.test_local_disk import NAME, Folder
from tests.engine.test_pins import MEMORY, ask
from tests.engine.test_storage_tier import LONG, below, flood, settle

CHUNKS = 12
SYNC = Disk.sync


@pytest.fixture(autouse=True)
def _syncs(monkeypatch):
    """The first one waits for all that the machine writes; what it does the plugin's tests show."""
    monkeypatch.setattr(Disk, "sync", lambda *_, **__: None)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def engine(folder, **fields):
    return folder.engine(chunks=CHUNKS, **fields)


def pin(rig, tokens=LONG, pin_id="p", **fields):
    """Pin, and wait until that is kept; return the report."""
    tiers = rig.engine.tiers
    with tiers.lock:
        tiers.pins.pin(ask(tokens, pin_id, **{"location": NAME, **fields}))
    return report(rig, pin_id)


def unpin(rig, pin_id="p", version=1):
    tiers = rig.engine.tiers
    with tiers.lock:
        released = tiers.pins.unpin(pin_id, version)
        tiers.keeping.release(pin_id)
    kept(rig, pin_id)
    return released


def kept(rig, pin_id="p"):
    """Wait until nothing is under way of a pin."""
    deadline = time.monotonic() + 20
    tiers = rig.engine.tiers
    while True:
        with tiers.lock:
            receipt = tiers.keeping.receipt(pin_id)
        if receipt is None:
            return
        assert time.monotonic() < deadline
        time.sleep(0.001)


def report(rig, pin_id="p", *, wait=True):
    if wait:
        kept(rig, pin_id)
    with rig.engine.tiers.lock:
        return rig.engine.tiers.pins.report(pin_id)


def clock_says(monkeypatch, unix_time):
    """Let engines that start from now on take it to be some time."""
    defaults = {"wall": lambda: unix_time}
    monkeypatch.setattr(restoring.PinRestoring.__init__, "__kwdefaults__", defaults)


def record_files(folder):
    return [file for file in folder.files() if is_record(bytes.fromhex(file.name))]


@pytest.fixture
def pinned(folder):
    """A folder with a pinned prompt, whose engine has stopped."""
    with engine(folder) as rig:
        rig.serve(LONG)
        settle(rig)
        assert pin(rig).state is PinState.ACTIVE
    assert len(record_files(folder)) == 1
    return folder


def test_what_is_pinned_stays_through_a_flood_that_starts_at_once(pinned):
    with engine(pinned) as rig:
        flood(rig, chunks=40)
        settle(rig)
        assert report(rig).state is PinState.ACTIVE
        assert rig.hit(LONG) == len(LONG)
        assert below(rig).pinned_bytes == 4 * FRAME_BYTES


def test_the_time_of_a_pin_goes_on_where_no_controller_is_configured(folder):
    with engine(folder) as rig:
        rig.serve(LONG)
        settle(rig)
        pin(rig, ttl_seconds=60)
    with engine(folder) as rig:
        assert report(rig).state is PinState.ACTIVE
        assert not rig.config.enable_controller
    with engine(folder) as rig:
        pin(rig, version=2, ttl_seconds=0.05)
        deadline = time.monotonic() + 20
        while report(rig) is not None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        flood(rig, chunks=40)
        settle(rig)
        assert below(rig).pinned_bytes == 0
    with engine(folder) as rig:
        assert report(rig) is None


def test_what_is_above_a_lower_limit_goes_and_what_is_pinned_stays(pinned):
    with engine(pinned) as rig:
        flood(rig)
        settle(rig)
    with pinned.engine(chunks=7) as rig:
        settle(rig)
        assert below(rig).used_bytes <= 7 * FRAME_BYTES
        assert rig.hit(LONG) == len(LONG)


def test_a_record_is_no_chunk_and_its_bytes_count(pinned):
    with engine(pinned) as rig:
        (file,) = record_files(pinned)
        assert bytes.fromhex(file.name) not in rig.engine.tiers.keys(NAME)
        assert below(rig).entries == 4
        assert below(rig).used_bytes == 4 * FRAME_BYTES
        flood(rig)
        settle(rig)
        sizes = sum(file.stat().st_size for file in pinned.files())
        assert sizes <= CHUNKS * FRAME_BYTES
        assert sizes == below(rig).used_bytes + file.stat().st_size


def test_a_record_in_a_full_tier_makes_room_for_itself(folder):
    with engine(folder) as rig:
        for number in range(CHUNKS):
            rig.serve([5000 + 100 * number + n for n in range(CHUNK_TOKENS)])
            settle(rig)
        assert below(rig).used_bytes == CHUNKS * FRAME_BYTES
        pin(rig, on_missing=OnMissing.RESERVE)
        settle(rig)
        residents = rig.engine.tiers.tier(NAME).residents
        assert 0 < residents.record_bytes <= CHUNKS * FRAME_BYTES - residents.used_bytes


def test_a_released_pin_stays_released(pinned):
    with engine(pinned) as rig:
        assert unpin(rig) == len(LONG)
    assert record_files(pinned) == []
    with engine(pinned) as rig:
        assert report(rig) is None


def test_a_release_before_the_store_was_gone_through_holds(pinned, monkeypatch):
    go = threading.Event()
    take = record_shelf.RecordShelf.take_in

    def late(self, *args):
        assert go.wait(20)
        take(self, *args)

    monkeypatch.setattr(record_shelf.RecordShelf, "take_in", late)
    monkeypatch.setattr("lmcache_core.engine.storage.tier.RECOVER_SECONDS", 0.01)
    with engine(pinned) as rig:
        with rig.engine.tiers.lock:
            assert rig.engine.tiers.pins.unpin("p", 1) == 0
            rig.engine.tiers.keeping.release("p")
            assert not rig.engine.tiers.keeping.receipt("p").over
        go.set()
        kept(rig)
        assert record_files(pinned) == []
        assert report(rig) is None


def test_a_higher_version_that_came_first_is_not_replaced(pinned, monkeypatch):
    go = threading.Event()
    take = record_shelf.RecordShelf.take_in

    def late(self, *args):
        assert go.wait(20)
        take(self, *args)

    monkeypatch.setattr(record_shelf.RecordShelf, "take_in", late)
    monkeypatch.setattr("lmcache_core.engine.storage.tier.RECOVER_SECONDS", 0.01)
    for version, held in ((2, 2), (1, 2)):
        go.clear()
        with engine(pinned) as rig:
            with rig.engine.tiers.lock:
                rig.engine.tiers.pins.pin(ask(LONG[:16], location=NAME, version=version))
            go.set()
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


def test_a_pin_whose_time_is_up_stays_expired(folder, monkeypatch):
    with engine(folder) as rig:
        rig.serve(LONG)
        settle(rig)
        pin(rig, ttl_seconds=60)
        pin(rig, pin_id="long", ttl_seconds=600)
    now = time.time()
    monkeypatch.setattr(
        restoring.PinRestoring.__init__, "__kwdefaults__", {"wall": lambda: now + 61}
    )
    with engine(folder) as rig:
        assert report(rig) is None
        assert 500 < report(rig, "long").ttl_seconds <= 539
    assert len(record_files(folder)) == 1


def test_a_clock_that_went_back_brings_no_time_back(folder, monkeypatch):
    with engine(folder) as rig:
        rig.serve(LONG)
        settle(rig)
        pin(rig, ttl_seconds=60)
    clock_says(monkeypatch, 1e9)
    with engine(folder) as rig:
        assert report(rig).ttl_seconds <= 60


def test_what_expires_while_it_runs_is_not_kept(folder):
    with engine(folder) as rig:
        rig.serve(LONG)
        settle(rig)
        pin(rig, ttl_seconds=0.01)
        time.sleep(0.02)
        with rig.engine.tiers.lock:
            assert rig.engine.tiers.pins.expire() == ["p"]
        kept(rig)
        assert record_files(folder) == []


def test_hits_that_renew_a_pin_are_kept(folder, monkeypatch):
    with engine(folder) as rig:
        rig.serve(LONG)
        settle(rig)
        pin(rig, location=MEMORY, ttl_seconds=80, renew=Renew.ON_HIT)
        files = record_files(folder)
        rig.serve(LONG)
        kept(rig)
        assert record_files(folder) == files, "a hit is not written each time"
        now = time.time()
        monkeypatch.setattr(rig.engine.tiers.keeping, "_wall", lambda: now + 50)
        rig.serve(LONG)
        kept(rig)
        assert record_files(folder) != files
    clock_says(monkeypatch, now + 100)
    with engine(folder) as rig:
        assert 20 < report(rig).ttl_seconds <= 31


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


def test_a_reservation_in_a_durable_tier_is_active_once_it_is_synced(folder, monkeypatch):
    with engine(folder) as rig:
        tier = rig.engine.tiers.storage[0]
        pin(rig, on_missing=OnMissing.RESERVE)
        go, sync = threading.Event(), tier._calls.sync
        monkeypatch.setattr(tier._calls, "sync", lambda: go.wait(20) and sync())
        rig.serve(LONG)
        settle(rig)
        held = report(rig, wait=False)
        assert held.state is PinState.PENDING
        assert "durable" in held.reason
        go.set()
        assert report(rig).state is PinState.ACTIVE


def test_a_chunk_whose_sync_has_failed_is_not_said_to_be_held(folder, monkeypatch):
    """However often it is synced afterwards: the kernel tells once that its pages were lost."""
    failing, fsync = [errno.EIO], SYSTEM.fsync

    def fail_one_chunk(fd):
        path = Path(f"/proc/self/fd/{fd}").readlink()
        if failing and path.is_file() and not is_record(bytes.fromhex(path.name)):
            raise OSError(failing.pop(), "planted")
        fsync(fd)

    monkeypatch.setattr(Disk, "sync", SYNC)
    monkeypatch.setattr(SYSTEM, "syncfs", lambda _fd: None)
    monkeypatch.setattr(SYSTEM, "fsync", fail_one_chunk)
    monkeypatch.setattr(records, "RETRY_SECONDS", 0.01)
    with engine(folder) as rig:
        rig.engine.tiers.storage[0]._calls.sync()
        rig.serve(LONG)
        settle(rig)
        held = pin(rig)
        assert failing == []
        assert held.state is PinState.DEGRADED
        assert held.tokens_pinned < len(LONG)
    with engine(folder) as rig:
        assert report(rig).state is PinState.DEGRADED
        rig.serve(LONG)
        settle(rig)
        assert report(rig).state is PinState.ACTIVE


@pytest.mark.parametrize("number", range(4))
def test_what_was_lost_meanwhile_is_reserved_and_degraded(pinned, number):
    chunks = [file for file in pinned.files() if file not in record_files(pinned)]
    chunks[number].unlink()
    with engine(pinned) as rig:
        assert report(rig).state is PinState.DEGRADED
        assert report(rig).tokens_pinned < len(LONG)
        rig.serve(LONG)
        settle(rig)
        assert report(rig).state is PinState.ACTIVE


@pytest.mark.parametrize("number", range(4))
def test_what_lies_behind_a_gap_is_held_by_a_pin_that_waits_for_the_rest(folder, number):
    with engine(folder) as rig:
        rig.serve(LONG)
        settle(rig)
        tiers = rig.engine.tiers
        gone = bytes.fromhex(folder.files()[number].name)
        tiers.drop(MEMORY, tiers.keys(MEMORY), force=True)
        tiers.drop(NAME, [gone], force=True)
        settle(rig)
        assert pin(rig, on_missing=OnMissing.RESERVE).tokens_pinned < len(LONG)
        rig.serve(LONG)
        settle(rig)
        assert report(rig).state is PinState.ACTIVE
        assert below(rig).pinned_bytes == 4 * FRAME_BYTES


@pytest.mark.parametrize("at", [0, 8, 40, 110, 150, 4096, 4110, -1])
def test_a_damaged_record_is_put_aside_and_costs_that_pin(pinned, at):
    with engine(pinned) as rig:
        pin(rig, LONG[:16], "other")
    files = record_files(pinned)
    file = next(f for f in files if b"other" not in f.read_bytes())
    frame = bytearray(file.read_bytes())
    frame[at] ^= 1
    file.write_bytes(frame)
    with engine(pinned) as rig:
        assert report(rig) is None
        assert report(rig, "other").state is PinState.ACTIVE
        assert len(pinned.quarantined()) == 1


def test_another_instances_record_is_left_alone(pinned, tmp_path):
    other = Folder(tmp_path, "another")
    with engine(other) as rig:
        assert report(rig) is None
    for file in pinned.files():
        target = other.root / file.relative_to(pinned.root)
        target.write_bytes(file.read_bytes())
    with engine(other) as rig:
        assert below(rig).entries == 4
        assert report(rig) is None
    assert len(record_files(other)) == 1


def test_an_engine_of_another_namespace_marks_nothing(pinned):
    with engine(pinned) as rig:
        keeping = rig.engine.tiers.keeping
        keeping._identity = b"another"
        pin(rig, LONG[:16], "other")
    with engine(pinned) as rig:
        assert report(rig, "other") is None
        assert report(rig).state is PinState.ACTIVE
    assert len(record_files(pinned)) == 1


def test_collecting_unused_frames_leaves_records(pinned):
    result = CliRunner().invoke(main, ["disk", "gc", str(pinned.path), "--unused-for", "0"])
    assert result.exit_code == 0, result.output
    assert pinned.files() == record_files(pinned) != []
    with engine(pinned) as rig:
        assert report(rig).state is PinState.PENDING


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
