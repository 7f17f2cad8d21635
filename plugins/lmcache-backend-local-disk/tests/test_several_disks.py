"""Frames over several disks, one of which is full, fails, is missing, or comes back."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path

import pytest

from lmcache_backend_local_disk import health
from lmcache_backend_local_disk.calls import SYSTEM
from lmcache_core.api import Deadline, PutStatus
from lmcache_core.errors import BackendError, DeadlineExceededError
from lmcache_core.testing.material import sample_frame, sample_key
from tests.disk.calls_between import NAMES, CallsBetween

COUNT = 24


class OneFails(CallsBetween):
    """Calls that fail for what lies below one folder.

    Attributes:
        below: The folder; None while nothing fails.
        code: The error.
        names: The calls that fail.
    """

    def __init__(self, code=errno.EIO):
        super().__init__()
        self.below: Path | None = None
        self.code = code
        self.names = frozenset(NAMES) - {"close"}
        self.fds = {}

    def around(self, name, real, *arguments, **options):
        where = options.get("dir_fd", options.get("src_dir_fd"))
        path = self.fds.get(where if where is not None else arguments[0], arguments[0])
        if self.below is not None and name in self.names and str(path).startswith(str(self.below)):
            raise OSError(self.code, "planted")
        answer = real(*arguments, **options)
        if name == "open":
            self.fds[answer] = path
        return answer


@pytest.fixture
def disks(make_disk, tmp_path, monkeypatch):
    monkeypatch.setattr(health, "FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(health, "LONGEST_PAUSE_SECONDS", 0.0)
    return make_disk(tmp_path / "a", tmp_path / "b", tmp_path / "c", calls=OneFails())


def files(disk, name):
    return {file.name for file in (disk.path.parent / name).glob("one/frames/*/*")}


def everywhere(disk):
    return [files(disk, name) for name in "abc"]


def keys(numbers):
    return {sample_key(number).hex() for number in numbers}


def whole(disk):
    return {n for n in range(COUNT) if disk.get(n) == bytes(sample_frame(n, 8192))}


def test_frames_are_spread_and_found_again(disks):
    assert {disks.put(number) for number in range(COUNT)} == {PutStatus.STORED}
    spread = everywhere(disks)
    assert all(len(part) > 2 for part in spread)
    assert sum(len(part) for part in spread) == COUNT
    disks.reopen()
    assert whole(disks) == set(range(COUNT))
    assert disks.backend.usage() == (COUNT * 8192, COUNT)
    assert sorted(disks.backend.scan()) == sorted((sample_key(n), 8192) for n in range(COUNT))
    assert everywhere(disks) == spread


def test_frames_are_told_in_the_order_of_use_over_all_disks(disks):
    order = list(range(COUNT))
    for number in order:
        disks.put(number)
    disks.get(3)
    order.remove(3)
    assert [key for key, _ in disks.backend.scan()] == [sample_key(n) for n in [*order, 3]]


def test_a_disk_that_fails_costs_its_part_and_comes_back(disks):
    for number in range(COUNT):
        disks.put(number)
    on_b = {n for n in range(COUNT) if sample_key(n).hex() in files(disks, "b")}
    disks.calls.below = disks.path.parent / "b"
    assert whole(disks) == set(range(COUNT)) - on_b
    assert disks.backend.usage() == ((COUNT - len(on_b)) * 8192, COUNT - len(on_b))
    # What is computed again goes elsewhere, and so does what is new.
    lost = min(on_b)
    assert disks.put(lost) is PutStatus.STORED
    assert disks.get(lost) == bytes(sample_frame(lost, 8192))
    assert {disks.put(number) for number in range(100, 110)} == {PutStatus.STORED}
    disks.calls.below = None
    assert {disks.put(number) for number in range(200, 230)} == {PutStatus.STORED}
    assert files(disks, "b") & keys(range(200, 230))
    # What was told to be lost is lost.
    assert not files(disks, "b") & keys(on_b)
    disks.reopen()
    assert sorted(key for key, _ in disks.backend.scan()) == sorted(
        {sample_key(n) for n in [*range(COUNT), *range(100, 110), *range(200, 230)]}
        - {sample_key(n) for n in on_b - {lost}}
    )


def test_what_is_removed_while_its_disk_fails_is_gone_when_it_is_back(disks):
    for number in range(COUNT):
        disks.put(number)
    on_b = sorted(n for n in range(COUNT) if sample_key(n).hex() in files(disks, "b"))
    disks.calls.below = disks.path.parent / "b"
    assert disks.remove(on_b[0])
    assert disks.quarantine(on_b[1])
    assert disks.stat(on_b[2]) is None
    disks.calls.below = None
    disks.get(on_b[3])
    assert not files(disks, "b") & keys(on_b[:3])
    assert disks.get(on_b[4]) == bytes(sample_frame(on_b[4], 8192))


def test_where_all_fail_it_is_an_error(disks):
    disks.put(1)
    disks.calls.below = disks.path.parent
    for ask in (disks.get, disks.put, disks.stat, disks.remove):
        with pytest.raises(BackendError, match="planted; the disk fails"):
            [ask(number) for number in range(COUNT)]
    disks.calls.below = None
    assert disks.put(2) is PutStatus.STORED


def test_a_full_disk_is_made_up_for_by_the_others(disks):
    disks.calls.code = errno.ENOSPC
    disks.calls.names = {"pwritev"}
    disks.calls.below = disks.path.parent / "c"
    assert {disks.put(number) for number in range(COUNT)} == {PutStatus.STORED}
    assert not files(disks, "c")
    assert disks.metrics.totals["put_elsewhere"] > 0
    disks.calls.below = disks.path.parent
    assert disks.put(100) is PutStatus.FULL


def test_a_failing_disk_is_left_alone_for_a_while(make_disk, tmp_path):
    disk = make_disk(tmp_path / "a", tmp_path / "b", calls=OneFails())
    for number in range(COUNT):
        disk.put(number)
    disk.calls.below = tmp_path / "b"
    whole(disk)
    assert disk.metrics.totals["failures"] == 1
    deadline = time.monotonic() + 30
    disk.calls.below = None
    number = 100
    while not files(disk, "b") & keys(range(100, number)):
        assert disk.put(number) is PutStatus.STORED
        number += 1
        assert time.monotonic() < deadline


def test_a_disk_that_cannot_be_used_at_the_start_is_left_out(make_disk, tmp_path, caplog):
    disk = make_disk(tmp_path / "a", tmp_path / "b")
    for number in range(COUNT):
        disk.put(number)
    on_a = {n for n in range(COUNT) if sample_key(n).hex() in files(disk, "a")}
    disk.close()
    (tmp_path / "b" / "one").rename(tmp_path / "kept")
    (tmp_path / "b" / "one").write_text("in the way")
    disk.reopen()
    assert caplog.text.count("disk.left_out") == 1
    assert whole(disk) == on_a
    disk.close()
    (tmp_path / "b" / "one").unlink()
    (tmp_path / "kept").rename(tmp_path / "b" / "one")
    disk.reopen()
    assert whole(disk) == set(range(COUNT))


def test_where_none_can_be_used_the_start_is_an_error(make_disk, tmp_path):
    disk = make_disk(tmp_path / "a", tmp_path / "b")
    disk.close()
    for name in "ab":
        (tmp_path / name / "one").rename(tmp_path / f"kept-{name}")
        (tmp_path / name / "one").write_text("in the way")
    with pytest.raises(BackendError, match="cannot be used"):
        disk.make().open()


def test_the_name_of_the_store_is_that_of_all_its_disks_in_any_order(make_disk, tmp_path):
    disk = make_disk(tmp_path / "a", tmp_path / "b")
    name = disk.backend.store_id
    disk.close()
    assert make_disk(tmp_path / "b", tmp_path / "a").backend.store_id == name


def test_a_sync_is_of_all_disks(disks):
    disks.backend.sync(Deadline(30))
    assert disks.metrics.totals["syncs"] == 3
    for number in range(COUNT):
        disks.put(number)
    disks.calls.below = disks.path.parent / "b"
    with pytest.raises(BackendError, match="syncing frames"):
        disks.backend.sync(Deadline(30))
    disks.calls.below = None
    lost = {sample_key(number) for number in range(COUNT) if not disks.stat(number)}
    assert lost == set(disks.events.have_gone)
    assert 0 < len(lost) < COUNT


def test_disks_are_synced_at_the_same_time(disks, monkeypatch):
    disks.backend.sync(Deadline(30))
    for number in range(COUNT):
        disks.put(number)
    all_there = threading.Barrier(3)
    first = {disk.folder.root: True for disk in disks.backend._disks}

    def opened(path, flags, *mode, dir_fd=None):
        if first.pop(dir_fd, False):
            all_there.wait(30)
        return SYSTEM.open(path, flags, *mode, dir_fd=dir_fd)

    monkeypatch.setattr(disks.calls, "open", opened)
    disks.backend.sync(Deadline(30))
    assert first == {}


def test_a_disk_that_never_answers_a_sync_is_waited_for_until_the_deadline(disks, monkeypatch):
    disks.backend.sync(Deadline(30))
    for number in range(COUNT):
        disks.put(number)
    may = threading.Event()
    stuck = list(disks.backend._disks)[1].folder.root

    def opened(path, flags, *mode, dir_fd=None):
        if dir_fd == stuck:
            assert may.wait(30)
        return SYSTEM.open(path, flags, *mode, dir_fd=dir_fd)

    with monkeypatch.context() as patched:
        patched.setattr(disks.calls, "open", opened)
        with pytest.raises(DeadlineExceededError, match="sync"):
            disks.backend.sync(Deadline(0.2))
        may.set()
        disks.backend.sync(Deadline(30))
    assert all(disk.synced for disk in disks.backend._disks)


def test_one_folder_named_twice_is_one(make_disk, tmp_path):
    disk = make_disk(tmp_path, tmp_path)
    assert disk.put(1) is PutStatus.STORED
    disk.assert_exact()
