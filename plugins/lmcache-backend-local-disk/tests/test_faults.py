"""System calls that fail, each in its turn, and disks that are full, read-only or gone."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess

import pytest

from lmcache_core.api import Deadline, PutStatus
from lmcache_core.errors import BackendError
from lmcache_core.testing.material import sample_frame
from tests.disk.calls_between import FailingCalls

ERRORS = (
    errno.EIO,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EINTR,
    errno.ENODEV,
)
FULL = (errno.ENOSPC, errno.EDQUOT)
FAULTS = (*ERRORS, "short")
SIZE = 3 * 4096 + 100
"""So that the last page is written apart, and what is before can be cut short."""

MOST_CALLS = 60
MOST_CALLS_OF_A_START = 3000


def fault_name(fault):
    return fault if isinstance(fault, str) else errno.errorcode[fault]


def said_by(do):
    """What is done, or what was said of it."""
    try:
        return do(), None
    except BackendError as error:
        return None, str(error)


def each_call(disk, fault, do):
    """Do it again and again, each time with the next of its calls failing.

    Yields the call that failed, what came of it and what was said.
    """
    calls = disk.calls
    for nth in range(1, MOST_CALLS):
        calls.nth, calls.fault, calls.hit = calls.seen + nth, fault, None
        answer, said = said_by(do)
        if calls.seen < calls.nth:
            calls.nth = 0
            return
        calls.nth = 0
        yield calls.hit, answer, said
    pytest.fail(f"it makes more than {MOST_CALLS} calls")


@pytest.mark.parametrize("fault", FAULTS, ids=fault_name)
@pytest.mark.parametrize("durability", ["none", "always"])
def test_whichever_call_of_a_put_fails_nothing_is_half_there(make_disk, fault, durability):
    disk = make_disk(calls=FailingCalls(), durability=durability, min_free_space=1e-9)
    disk.put(1, SIZE)
    disk.backend.usage()  # What is listed once, is.
    hit = set()
    for call, status, said in each_call(disk, fault, lambda: disk.put(2, SIZE)):
        hit.add(call)
        if fault == "short":
            assert status is PutStatus.STORED
        elif fault in FULL and status is not PutStatus.STORED:
            assert status is PutStatus.FULL
        elif status is not PutStatus.STORED:
            assert os.strerror(fault) in said
        disk.assert_usage_exact()
        assert (status is PutStatus.STORED) == disk.file(2).exists()
        assert disk.get(1, SIZE) == bytes(sample_frame(1, SIZE))
        assert disk.put(2, SIZE) in (PutStatus.STORED, PutStatus.PRESENT)
        assert disk.get(2, SIZE) == bytes(sample_frame(2, SIZE))
        assert disk.remove(2)
    if fault == "short":
        assert hit == {"pwritev", None}
    else:
        synced = {"fsync"} if durability == "always" else set()
        assert hit >= {"open", "pwritev", "ftruncate", "close", "rename", "fstatvfs", *synced}
    disk.reopen()
    disk.assert_exact()


@pytest.mark.parametrize("what", ["get", "stat", "remove", "quarantine"])
@pytest.mark.parametrize("fault", FAULTS, ids=fault_name)
def test_whichever_call_of_another_method_fails_it_is_said_and_accounted(make_disk, what, fault):
    disk = make_disk(calls=FailingCalls())
    arguments = [SIZE] if what == "get" else []
    hit = set()

    def do():
        return getattr(disk, what)(1, *arguments)

    disk.put(1, SIZE)
    disk.backend.usage()
    for call, answer, said in each_call(disk, fault, do):
        hit.add(call)
        if fault != "short":
            assert said is None or os.strerror(fault) in said
        elif what == "get":
            assert answer == bytes(sample_frame(1, SIZE))
        disk.assert_exact()
        if disk.file(1).exists():
            assert disk.get(1, SIZE) == bytes(sample_frame(1, SIZE))
        else:
            assert disk.get(1, SIZE) is None
        disk.put(1, SIZE)
        for file in (disk.root / "quarantine").iterdir():
            file.unlink()  # Or else each one that is left takes a call, the next time.
    expected = {"get": "preadv", "stat": "lstat", "remove": "unlink", "quarantine": "rename"}
    assert fault == "short" or expected[what] in hit


@pytest.mark.parametrize("fault", ERRORS, ids=fault_name)
def test_whichever_call_of_a_sync_fails_it_is_said_and_what_is_lost_is_gone(make_disk, fault):
    disk = make_disk(calls=FailingCalls())
    (one,) = disk.backend._disks
    one.syncing.at_once = 1  # Or else the order of the calls is the kernel's.
    disk.backend.sync(Deadline(30))
    hit = set()

    def change():
        for number in range(6):
            assert disk.put(number, SIZE) in (PutStatus.STORED, PutStatus.PRESENT)
        assert disk.remove(5)

    change()
    for call, _, said in each_call(disk, fault, lambda: disk.backend.sync(Deadline(30))):
        hit.add(call)
        assert (said is None) == (call == "close")
        assert said is None or os.strerror(fault) in said
        disk.assert_exact()
        for number in range(5):
            there = disk.get(number, SIZE)
            assert there == (bytes(sample_frame(number, SIZE)) if disk.stat(number) else None)
        disk.backend.sync(Deadline(30))
        for number in range(5):
            disk.remove(number)
        change()
    assert hit == {"open", "fsync", "close"}


@pytest.mark.parametrize("fault", FAULTS, ids=fault_name)
def test_whichever_call_of_a_start_fails_the_next_start_works(make_disk, fault):
    disk = make_disk(durability="always")
    disk.put(1)
    disk.close()
    # Of the folders, which are made and listed alike, some are enough. How many
    # calls there are differs: folders that a snapshot vouches for are not listed.
    for nth in itertools.chain(range(1, 24), range(24, MOST_CALLS_OF_A_START, 149)):
        disk.calls = FailingCalls(nth, fault)
        backend = disk.make()
        said_by(lambda backend=backend: (backend.open(), list(backend.scan())))
        backend.close()
        if nth > disk.calls.seen:
            break
    else:
        pytest.fail(f"a start makes more than {MOST_CALLS_OF_A_START} calls")
    disk.calls = FailingCalls()
    disk.reopen()
    disk.assert_exact()
    assert disk.get(1) == bytes(sample_frame(1, 8192))


def test_a_sync_that_fails_is_said(make_disk):
    disk = make_disk(calls=FailingCalls(0, errno.EIO, ("syncfs",)))
    disk.put(1)
    disk.calls.nth = 1
    with pytest.raises(BackendError, match=r"syncing frames .* Input/output error"):
        disk.backend.sync(Deadline(30))
    disk.backend.sync(Deadline(30))
    assert disk.metrics.totals["failures"] == 1
    assert disk.metrics.totals["syncs"] == 1


def test_a_file_that_could_not_be_synced_is_not_tried_again_and_not_there(make_disk):
    """The kernel says once that pages were lost, and takes them for written the next time."""
    disk = make_disk(calls=FailingCalls(0, errno.EIO, ("fsync",)), durability="always")
    disk.calls.nth = 1
    with pytest.raises(BackendError, match="Input/output error"):
        disk.put(1)
    assert disk.calls.seen == 1
    assert disk.stat(1) is None
    disk.assert_exact()
    assert disk.put(1) is PutStatus.STORED


def test_a_write_that_stops_is_an_error(make_disk):
    disk = make_disk(calls=FailingCalls())
    disk.calls.pwritev = lambda *_: 0
    with pytest.raises(BackendError, match="0 of 8192 bytes"):
        disk.put(2)
    disk.assert_exact()


def test_a_state_is_told_once_when_it_begins_and_once_when_it_ends(make_disk, caplog):
    caplog.set_level("INFO")
    calls = FailingCalls(1, errno.EROFS, ("pwritev",), lasting=True)
    calls.nth = 0
    disk = make_disk(calls=calls)
    calls.nth = calls.seen + 1
    for number in itertools.repeat(1, 3):
        with pytest.raises(BackendError, match="has become read-only"):
            disk.put(number)
    assert caplog.text.count("disk.failing") == 1
    assert disk.metrics.gauges == {"failing_disks": 1, "full_disks": 0}
    (state,) = disk.backend._disks
    assert "read-only" in state.health.reason
    calls.nth = 0
    assert disk.put(1) is PutStatus.STORED
    assert caplog.text.count("disk.works_again") == 1
    calls.nth, calls.fault = calls.seen + 1, errno.ENOSPC
    assert [disk.put(number) for number in (2, 3)] == [PutStatus.FULL] * 2
    assert caplog.text.count("disk.full") == 1
    assert state.health.full
    assert disk.metrics.gauges == {"failing_disks": 0, "full_disks": 1}
    calls.nth = 0
    assert disk.put(2) is PutStatus.STORED
    assert caplog.text.count("disk.has_room") == 1
    assert disk.metrics.gauges == {"failing_disks": 0, "full_disks": 0}
    assert disk.metrics.totals["full"] == 2
    assert disk.metrics.totals["failures"] == 3


def test_room_is_left_free_on_the_file_system(make_disk, small_file_system):
    disk = make_disk(small_file_system(2 << 20), min_free_space=1 / 1024)
    statuses = [disk.put(number, 1 << 17) for number in range(16)]
    kept = statuses.count(PutStatus.STORED)
    assert 4 < kept < 8
    assert statuses == [PutStatus.STORED] * kept + [PutStatus.FULL] * (16 - kept)
    status = os.statvfs(disk.path)
    assert status.f_bavail * status.f_frsize >= 1 << 20
    disk.remove(0)
    assert disk.put(100, 1 << 17) is PutStatus.STORED


@pytest.mark.parametrize("direct_io", [True, False])
def test_a_disk_that_is_really_full_says_so_and_recovers(make_disk, small_file_system, direct_io):
    disk = make_disk(small_file_system(1 << 20), direct_io=direct_io)
    statuses = []
    while PutStatus.FULL not in statuses:
        statuses.append(disk.put(len(statuses), 1 << 17))
    kept = statuses.count(PutStatus.STORED)
    assert 2 < kept < 8
    disk.assert_exact()
    disk.reopen()
    for number in range(kept):
        assert disk.get(number, 1 << 17) == bytes(sample_frame(number, 1 << 17))
    disk.remove(0)
    assert disk.put(100, 1 << 17) is PutStatus.STORED


def test_a_full_disk_that_has_no_room_for_a_byte_can_be_opened_and_read(
    make_disk, small_file_system
):
    disk = make_disk(small_file_system(1 << 20))
    disk.put(1)
    with (disk.path / "filler").open("wb", buffering=0) as filler:
        filler.write(bytes(1 << 20))
        with pytest.raises(OSError, match="No space"):
            filler.write(b"one more")
    disk.reopen()
    assert disk.get(1) == bytes(sample_frame(1, 8192))
    assert disk.put(2) is PutStatus.FULL
    assert disk.remove(1)
    assert disk.put(2) is PutStatus.STORED


def test_a_disk_that_is_read_only_at_the_start_is_an_error_that_says_so(
    make_disk, small_file_system
):
    disk = make_disk(small_file_system(1 << 20))
    disk.close()
    subprocess.run(["mount", "-o", "remount,ro", str(disk.path)], check=True, timeout=30)
    with pytest.raises(BackendError, match="Read-only file system; give local_disk"):
        disk.reopen()


def test_a_folder_of_ours_that_was_removed_is_made_again(disk):
    disk.put(1)
    shutil.rmtree(disk.root / "frames")
    assert disk.get(1) is None
    assert disk.put(1) is PutStatus.STORED
    shutil.rmtree(disk.root / "aside")
    assert disk.put(2) is PutStatus.STORED
    shutil.rmtree(disk.root / "quarantine")
    assert disk.quarantine(2)
    assert len(disk.quarantined()) == 1
    disk.assert_exact()


def test_a_folder_that_is_gone_or_replaced_is_not_written_to(disk):
    disk.put(1)
    disk.root.rename(disk.path / "moved")
    assert disk.put(2) is PutStatus.STORED, "it is the folder that is owned, not its name"
    shutil.rmtree(disk.path / "moved")
    other = disk.make()
    other.open()
    assert disk.get(1) is None
    with pytest.raises(BackendError, match="restart the engine"):
        disk.put(3)
    other.close()
    assert list((disk.root / "frames").glob("*/*")) == []
