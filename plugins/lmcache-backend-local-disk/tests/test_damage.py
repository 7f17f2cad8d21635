"""Files that are damaged, gone, or not ours."""

from __future__ import annotations

import errno
import os

import pytest

from lmcache_backend_local_disk import quarantine
from lmcache_core.errors import BackendError
from lmcache_core.testing.material import sample_frame, sample_key
from tests.disk.calls_between import FailingCalls


def test_a_vanished_file_is_a_miss_and_no_longer_counted(disk):
    disk.put(1)
    disk.put(2)
    disk.file(1).unlink()
    assert disk.get(1) is None
    disk.assert_exact()
    disk.file(2).unlink()
    assert disk.stat(2) is None
    disk.assert_exact()
    assert disk.put(1).value == "stored"
    assert disk.get(1) == bytes(sample_frame(1, 8192))


@pytest.mark.parametrize("direct_io", [True, False])
@pytest.mark.parametrize("nbytes", [0, 1, 4095, 4096, 5000, 8191])
def test_a_truncated_file_is_as_long_as_it_is(make_disk, nbytes, direct_io):
    disk = make_disk(direct_io=direct_io)
    disk.put(1)
    os.truncate(disk.file(1), nbytes)
    assert disk.get(1) == bytes(sample_frame(1, 8192))[:nbytes]
    assert disk.stat(1) == nbytes
    disk.assert_exact()


def test_a_file_that_has_grown_is_a_miss_and_told_with_its_length(disk):
    disk.put(1)
    with disk.file(1).open("ab") as file:
        file.write(b"more")
    assert disk.get(1) is None
    assert disk.stat(1) == 8196
    disk.assert_exact()


def test_a_quarantined_frame_is_kept_with_its_reason(disk):
    disk.put(1)
    disk.put(2)
    assert disk.quarantine(1, "the checksum of the payload does not match")
    assert not disk.quarantine(1)
    assert disk.quarantined() == {sample_key(1).hex(): "the checksum of the payload does not match"}
    disk.assert_exact()
    assert disk.put(1).value == "stored"
    assert disk.get(1) == bytes(sample_frame(1, 8192))


def test_a_frame_that_vanished_cannot_be_quarantined(disk):
    disk.put(1)
    disk.file(1).unlink()
    assert not disk.quarantine(1)
    assert disk.quarantined() == {}
    disk.assert_exact()


def test_the_quarantine_keeps_the_newest_within_its_bound(make_disk):
    disk = make_disk(quarantine_size=3 * 8192 / (1 << 30))
    for number in range(6):
        disk.put(number)
        disk.quarantine(number)
    assert sorted(disk.quarantined()) == sorted(sample_key(n).hex() for n in (3, 4, 5))
    assert len(list((disk.root / "quarantine").iterdir())) == 6


def test_the_quarantine_keeps_a_bounded_number_of_small_files(make_disk, monkeypatch):
    monkeypatch.setattr(quarantine, "MAX_FILES", 4)
    disk = make_disk()
    for number in range(7):
        disk.put(number, 1)
        disk.quarantine(number)
    assert len(disk.quarantined()) == 4


def test_without_room_in_quarantine_damaged_files_are_removed(make_disk):
    disk = make_disk(quarantine_size=0)
    disk.put(1)
    assert disk.quarantine(1)
    assert list((disk.root / "quarantine").iterdir()) == []
    assert disk.get(1) is None


def test_a_file_that_cannot_be_read_is_quarantined(make_disk):
    disk = make_disk(calls=FailingCalls(0, errno.EIO, ("preadv",)))
    disk.put(1)
    disk.calls.nth = disk.calls.seen + 1
    assert disk.get(1) is None
    assert disk.quarantined() == {sample_key(1).hex(): "it cannot be read: Input/output error"}
    disk.assert_exact()


def test_what_the_process_lacks_is_no_files_fault(make_disk):
    disk = make_disk(calls=FailingCalls(0, errno.EMFILE, ("open",)))
    disk.put(1)
    disk.calls.nth = disk.calls.seen + 1
    with pytest.raises(BackendError, match=r"Too many open files.*ulimit"):
        disk.get(1)
    assert disk.get(1) == bytes(sample_frame(1, 8192))


def test_files_that_are_no_frames_are_quarantined_when_they_are_found(disk):
    disk.put(1)
    key = sample_key(1).hex()
    shard = disk.root / "frames" / key[:2]
    elsewhere = disk.root / "frames" / f"{(sample_key(1)[0] + 1) % 256:02x}"
    disk.backend.close()
    target = disk.path / "target"
    target.write_text("a stranger's")
    (shard / "README").write_text("hello")
    (shard / key.upper()).write_text("not how we write it")
    (shard / f"{key[:2]} {key[:61]}").write_text("spaces are taken for hex")
    (elsewhere / key).write_text("in the wrong folder")
    (shard / (key[:2] + "0" * 62)).symlink_to(target)
    (shard / (key[:2] + "1" * 62)).mkdir()
    disk.reopen()
    assert list(disk.backend.scan()) == [(sample_key(1), 8192)]
    assert disk.backend.usage() == (8192, 1)
    assert len(list((disk.root / "quarantine").glob("*.reason"))) == 6
    assert target.read_text() == "a stranger's"
    assert disk.get(1) == bytes(sample_frame(1, 8192))


def test_a_link_in_a_frames_place_is_not_followed(disk, tmp_path):
    disk.put(1)
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 8192)
    disk.file(1).unlink()
    disk.file(1).symlink_to(secret)
    assert disk.get(1) is None
    assert len(list((disk.root / "quarantine").glob(f"*{sample_key(1).hex()}.reason"))) == 1
    assert secret.exists()
    disk.assert_exact()
