"""What a sync waits for, and what becomes of what could not be synced."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from lmcache_backend_local_disk.syncing import AT_ONCE
from lmcache_core.api import Deadline, PutStatus
from lmcache_core.errors import BackendError, DeadlineExceededError
from lmcache_core.testing.material import sample_frame, sample_key
from tests.disk.calls_between import CallsBetween
from tests.disk.power_loss import LosingCalls


class Syncs(CallsBetween):
    """Notes what is synced, and fails where it is told to.

    Attributes:
        synced: Names of the files and folders, and ``*`` for all there is.
        failing: The error of a file or folder, by its name.
        unopened: The same for opening it.
    """

    def __init__(self):
        super().__init__(("fsync", "syncfs", "open"))
        self.synced = []
        self.failing = {}
        self.unopened = {}

    def around(self, name, real, *arguments, **options):
        if name == "open":
            self._fail(self.unopened, Path(arguments[0]).name)
            return real(*arguments, **options)
        what = "*"
        if name == "fsync":
            what = Path(f"/proc/self/fd/{arguments[0]}").readlink().name
        self.synced.append(what)
        self._fail(self.failing, what)
        return real(*arguments, **options)

    def take(self):
        synced, self.synced = self.synced, []
        return Counter(synced)

    @staticmethod
    def _fail(failing, what):
        code = failing.pop(what, None)
        if code is not None:
            raise OSError(code, os.strerror(code))


def name(number):
    return sample_key(number).hex()


def shard(number):
    return name(number)[:2]


def sync(disk, seconds=30.0):
    disk.backend.sync(Deadline(seconds))


def fails(disk):
    with suppress(DeadlineExceededError):
        try:
            sync(disk)
        except BackendError as error:
            return str(error)
    return None


@pytest.fixture
def disk(make_disk):
    """A disk without anything to sync."""
    disk = make_disk(calls=Syncs())
    sync(disk)
    disk.calls.take()
    return disk


def test_the_first_sync_is_of_what_an_earlier_process_has_left_too(make_disk):
    before = make_disk()
    before.put(1)
    before.close()
    disk = make_disk(calls=Syncs())
    sync(disk)
    assert disk.calls.take() == {"*": 1}


def test_a_sync_is_of_what_was_written_since_the_last_one(disk):
    for number in (1, 2, 3):
        disk.put(number)
    sync(disk)
    assert disk.calls.take() == Counter(
        [*map(name, (1, 2, 3)), *{shard(number) for number in (1, 2, 3)}]
    )
    sync(disk)
    assert disk.calls.take() == {}
    disk.put(4)
    sync(disk)
    assert disk.calls.take() == Counter([name(4), shard(4)])


@pytest.mark.parametrize("leave", ["remove", "quarantine"])
@pytest.mark.parametrize("durability", ["none", "always"])
def test_where_a_name_has_gone_the_folder_is_synced(make_disk, leave, durability):
    disk = make_disk(calls=Syncs(), durability=durability)
    disk.put(1)
    sync(disk)
    disk.calls.take()
    getattr(disk, leave)(1)
    sync(disk)
    assert disk.calls.take() == {shard(1): 1}


def test_what_is_removed_before_it_was_synced_is_not_synced(disk):
    disk.put(1)
    disk.remove(1)
    sync(disk)
    assert disk.calls.take() == {shard(1): 1}


def test_what_replaces_another_or_is_put_with_always_is_synced_already(make_disk):
    disk = make_disk(calls=Syncs(), durability="always")
    disk.put(1)
    disk.backend.replace([sample_key(1)], [sample_frame(1, 4096)], Deadline(30))
    disk.calls.take()
    sync(disk)
    assert disk.calls.take() == {}


def test_of_very_many_the_whole_file_system_is_synced(disk):
    (one,) = disk.backend._disks
    one.folder.unsynced.most_files = 3
    for number in range(4):
        disk.put(number)
    disk.put(5)
    sync(disk)
    assert disk.calls.take() == {"*": 1}
    for number in range(10, 13):
        disk.put(number)
    sync(disk)
    assert "*" not in disk.calls.take()


def test_after_folders_were_made_again_the_whole_file_system_is_synced(disk):
    (disk.root / "aside").rmdir()
    assert disk.put(1) is PutStatus.STORED
    sync(disk)
    assert disk.calls.take() == {"*": 1}


def test_what_vanishes_meanwhile_is_passed_over(disk):
    disk.put(1)
    disk.put(2)
    disk.file(1).unlink()
    disk.file(2).unlink()
    disk.file(2).parent.rmdir()
    sync(disk)
    assert disk.calls.take() == {shard(1): 1}


@pytest.mark.parametrize("failing", [name, shard], ids=["file", "folder"])
def test_what_cannot_be_synced_is_lost_and_said_to_be(disk, failing):
    disk.put(1)
    disk.put(2)
    disk.calls.failing = {failing(1): errno.EIO}
    assert "syncing frames" in fails(disk)
    assert (disk.stat(1), disk.file(1).exists()) == (None, False)
    assert disk.events.have_gone == [sample_key(1)]
    disk.assert_exact()
    synced = disk.calls.take()
    assert (synced[name(1)], synced[name(2)], synced[shard(2)]) == (1, 1, 1)
    sync(disk)
    # It is not there any more, and that is synced.
    assert disk.calls.take() == {shard(1): 1}
    assert disk.put(1) is PutStatus.STORED
    sync(disk)
    assert disk.get(1) == bytes(sample_frame(1, 8192))


def test_what_cannot_be_removed_either_is_forgotten(disk, monkeypatch):
    disk.put(1)
    disk.calls.failing = {name(1): errno.EROFS}

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patched:
        patched.setattr(disk.calls, "unlink", refuse)
        assert "read-only" in fails(disk)
    assert disk.stat(1) is None
    assert disk.events.have_gone == [sample_key(1)]
    assert disk.put(1) is PutStatus.STORED


def test_a_folder_that_cannot_be_synced_is_synced_the_next_time_where_names_have_gone(disk):
    disk.put(1)
    sync(disk)
    disk.calls.take()
    disk.remove(1)
    disk.calls.failing = {shard(1): errno.EIO}
    assert "syncing frames" in fails(disk)
    sync(disk)
    assert disk.calls.take() == {shard(1): 2}


def test_a_process_that_lacks_descriptors_loses_nothing(disk):
    disk.put(1)
    disk.put(2)
    disk.calls.unopened = {name(2): errno.EMFILE}
    assert "limit" in fails(disk)
    assert disk.events.have_gone == []
    sync(disk)
    assert disk.calls.take() >= Counter([name(1), name(2), shard(1), shard(2)])
    assert disk.get(2) == bytes(sample_frame(2, 8192))


def test_what_fails_behind_is_told_to_who_waits_next_and_once(disk):
    (one,) = disk.backend._disks
    disk.put(1)
    disk.calls.failing = {name(1): errno.EIO}
    with pytest.raises(OSError, match="Input/output"):
        one.sync(Deadline(30), behind=True)
    one.sync(Deadline(30), behind=True)
    assert "syncing frames" in fails(disk)
    assert fails(disk) is None


class Slow(Syncs):
    """Lets whoever syncs a file wait."""

    def __init__(self):
        super().__init__()
        self.waits, self.may = threading.Event(), threading.Event()

    def around(self, called, real, *arguments, **options):
        if called == "fsync":
            self.waits.set()
            assert self.may.wait(30)
        return super().around(called, real, *arguments, **options)


@pytest.fixture
def slow(make_disk):
    disk = make_disk(calls=Slow())
    sync(disk)
    disk.put(1)
    yield disk
    disk.calls.may.set()


def test_who_comes_while_files_are_synced_waits_for_them_and_hears_of_their_loss(slow):
    slow.calls.failing = {name(1): errno.EIO}
    said = []
    threads = [threading.Thread(target=lambda: said.append(fails(slow))) for _ in range(2)]
    for thread in threads:
        thread.start()
        assert slow.calls.waits.wait(30)
    threads[1].join(0.1)
    assert said == []
    slow.calls.may.set()
    for thread in threads:
        thread.join(30)
    assert all("syncing frames" in reason for reason in said)


def test_who_has_no_time_left_leaves_what_is_left_to_the_next(slow):
    first = threading.Thread(target=sync, args=(slow,))
    first.start()
    assert slow.calls.waits.wait(30)
    slow.put(2)
    with pytest.raises(DeadlineExceededError, match="syncing frames"):
        sync(slow, 0.1)
    slow.calls.may.set()
    first.join(30)
    with pytest.raises(DeadlineExceededError):
        sync(slow, 0.0)
    slow.calls.take()
    sync(slow)
    assert slow.calls.take() == Counter([name(2), shard(2)])


def test_many_folders_are_synced_at_the_same_time(disk):
    for number in range(12):
        disk.put(number)
    together, fsync = threading.Barrier(AT_ONCE), disk.calls.fsync
    first = set()

    def sync_file(fd):
        if threading.get_ident() not in first:
            first.add(threading.get_ident())
            together.wait(30)
        fsync(fd)

    disk.calls.fsync = sync_file
    sync(disk)
    assert len(first) == AT_ONCE
    assert disk.calls.take() >= Counter(map(name, range(12)))


@pytest.mark.parametrize("durability", ["none", "interval"])
def test_whichever_sync_fails_what_is_said_to_be_there_is_durable(make_disk, tmp_path, durability):
    """A file whose sync has failed is never on the disk, whatever the next sync says of it."""
    for failing in range(1, 30):
        place = tmp_path / f"{failing}"
        place.mkdir()
        calls = LosingCalls(place)
        disk = make_disk(place, calls=calls, durability=durability, sync_interval=3600)
        disk.put(0)
        sync(disk)
        disk.remove(0)
        for number in range(1, 6):
            disk.put(number)
        calls.failing = failing
        said = fails(disk)
        if said is None:
            break
        disk.put(1)
        assert fails(disk) is None
        there = {number for number in range(6) if disk.stat(number)}
        disk.close()
        left = place / "left"
        calls.lose_power(left, random.Random(failing))
        after = make_disk(left)
        for number in there:
            assert after.get(number) == bytes(sample_frame(number, 8192)), failing
        assert after.get(0) is None
    assert failing > 9
