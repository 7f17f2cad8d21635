"""What a restarted engine does not have is not said to be held."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from lmcache_backend_local_disk.calls import SYSTEM
from lmcache_backend_local_disk.disk import Disk
from lmcache_core.api.frames import is_record
from lmcache_core.api.pins import OnMissing, PinState
from lmcache_core.engine.storage import records
from tests.engine.kept_pins.keeping import engine, pin, record_files, report
from tests.engine.rig import FRAME_BYTES
from tests.engine.test_local_disk import NAME
from tests.engine.test_pins import MEMORY
from tests.engine.test_storage_tier import LONG, below, settle

SYNC = Disk.sync


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
