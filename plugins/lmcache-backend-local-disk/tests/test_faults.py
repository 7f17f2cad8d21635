"""System calls that fail, each in its turn, and disks that are full, read-only or gone."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess

import pytest

from lmcache_core.api import PutStatus
from lmcache_core.errors import BackendError
from lmcache_core.testing.material import sample_frame

CALLS = ("open", "pwritev", "preadv", "ftruncate", "close", "rename", "unlink", "stat", "fstat")
ERRORS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
SIZE = 8192 + 100
"""So that the last page is written apart."""


class FailingCalls:
    """Lets the Nth system call of those that change or read files fail."""

    def __init__(self, patch, nth, code):
        self.seen = 0
        self.hit = None
        for name in CALLS:
            patch.setattr(os, name, self._wrap(name, getattr(os, name), nth, code))

    def _wrap(self, name, real, nth, code):
        def call(*arguments, **options):
            self.seen += 1
            if self.seen == nth:
                self.hit = name
                if name == "close":  # Linux has closed it when it says so.
                    real(*arguments, **options)
                raise OSError(code, os.strerror(code))
            return real(*arguments, **options)

        return call


@pytest.mark.parametrize("code", ERRORS, ids=errno.errorcode.get)
def test_whichever_call_of_a_put_fails_nothing_is_half_there(disk, code):
    disk.put(1, SIZE)
    list(disk.backend.scan())
    hit = set()
    for nth in range(1, 40):
        status, said = None, os.strerror(code)
        with pytest.MonkeyPatch.context() as patch:
            calls = FailingCalls(patch, nth, code)
            try:
                status = disk.put(2, SIZE)
            except BackendError as error:
                said = str(error)
        assert os.strerror(code) in said
        if calls.hit is None:
            assert status is PutStatus.STORED
            break
        hit.add(calls.hit)
        if status is not PutStatus.STORED:
            full = code in (errno.ENOSPC, errno.EDQUOT)
            assert status is (PutStatus.FULL if full else None)
            assert not disk.file(2).exists()
        files = disk.files()
        assert disk.backend.usage() == (sum(files.values()), len(files))
        assert disk.get(1, SIZE) == bytes(sample_frame(1, SIZE))
        assert disk.put(2, SIZE) in (PutStatus.STORED, PutStatus.PRESENT)
        assert disk.get(2, SIZE) == bytes(sample_frame(2, SIZE))
        assert disk.remove(2)
    assert hit >= {"open", "pwritev", "ftruncate", "close", "rename"}


@pytest.mark.parametrize("what", ["get", "stat", "remove", "quarantine"])
@pytest.mark.parametrize("code", ERRORS, ids=errno.errorcode.get)
def test_whichever_call_of_another_method_fails_it_is_said_and_accounted(disk, what, code):
    for nth in range(1, 40):
        disk.put(1, SIZE)
        list(disk.backend.scan())
        said = os.strerror(code)
        with pytest.MonkeyPatch.context() as patch:
            calls = FailingCalls(patch, nth, code)
            try:
                getattr(disk, what)(1, *([SIZE] if what == "get" else []))
            except BackendError as error:
                said = str(error)
        assert os.strerror(code) in said
        if calls.hit is None:
            break
        disk.assert_exact()
        if disk.file(1).exists():
            assert disk.get(1, SIZE) == bytes(sample_frame(1, SIZE))
        else:
            assert disk.get(1, SIZE) is None
    assert nth > 1


@pytest.mark.parametrize("code", ERRORS, ids=errno.errorcode.get)
def test_whichever_call_of_a_start_fails_the_next_start_works(disk, code):
    disk.put(1)
    disk.backend.close()
    # Of the folders, which are made and listed alike, some are enough.
    for nth in (*range(1, 24), *range(24, 700, 67)):
        with pytest.MonkeyPatch.context() as patch:
            calls = FailingCalls(patch, nth, code)
            backend = disk.make()
            try:
                backend.open()
                list(backend.scan())
            except BackendError:
                pass
            backend.close()
        if calls.hit is None:
            break
    assert calls.hit is None
    disk.reopen()
    disk.assert_exact()
    assert disk.get(1) == bytes(sample_frame(1, 8192))


def test_a_short_write_goes_on_and_one_that_stops_is_an_error(disk, monkeypatch):
    pwritev = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, views, at: pwritev(fd, [views[0][:4096]], at))
    assert disk.put(1) is PutStatus.STORED
    assert disk.get(1) == bytes(sample_frame(1, 8192))
    monkeypatch.setattr(os, "pwritev", lambda *_: 0)
    with pytest.raises(BackendError, match="0 of 8192 bytes"):
        disk.put(2)
    disk.assert_exact()


def test_a_short_read_goes_on(disk, monkeypatch):
    disk.put(1)
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: preadv(fd, [views[0][:4096]], at))
    assert disk.get(1) == bytes(sample_frame(1, 8192))


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
