"""Whose the folder is, what it is called, and what is in it when it is opened."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from lmcache_backend_local_disk import frame_file
from lmcache_backend_local_disk.calls import SYSTEM
from lmcache_backend_local_disk.identity import Identity
from lmcache_backend_local_disk.names import instance_folder
from lmcache_core.api import BackendContext
from lmcache_core.errors import BackendError
from lmcache_core.testing.material import sample_frame, sample_key

OPEN_IN_CHILD = """
import sys
from lmcache_backend_local_disk.backend import LocalDiskBackend
from lmcache_backend_local_disk.config import LocalDiskConfig
from lmcache_core.api import BackendContext
from lmcache_core.errors import BackendError
context = BackendContext(instance_id="one", tier="t")
try:
    LocalDiskBackend(LocalDiskConfig(path=sys.argv[1]), context).open()
except BackendError as error:
    print(error)
"""


def test_two_engines_never_own_one_folder(disk):
    with pytest.raises(BackendError, match=f"process {os.getpid()} .* lmcache_instance_id"):
        disk.make().open()
    said = subprocess.run(
        [sys.executable, "-c", OPEN_IN_CHILD, str(disk.path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert "belongs to another engine" in said
    assert disk.put(1).value == "stored", "who was first goes on"
    disk.reopen()
    assert disk.get(1) == bytes(sample_frame(1, 8192))


def test_a_start_that_fails_leaves_the_folder_to_others(disk):
    disk.backend.close()
    later = Identity(2, "some-name").pack()
    (disk.root / "store").write_bytes(later)
    other = disk.make()
    with pytest.raises(BackendError, match="format 2"):
        other.open()
    assert (disk.root / "store").read_bytes() == later
    (disk.root / "store").unlink()
    disk.reopen()


def test_a_damaged_name_is_given_anew_and_the_frames_stay(disk):
    disk.put(1)
    name = disk.backend.store_id
    (disk.root / "store").write_bytes(b"\xff\x00")
    disk.reopen()
    assert disk.backend.store_id != name
    assert disk.get(1) == bytes(sample_frame(1, 8192))


def test_what_was_never_finished_is_removed_at_the_start(disk):
    disk.put(1)
    disk.backend.close()
    for name in ("0", "17", "of a later version"):
        (disk.root / "aside" / name).write_bytes(b"half a frame")
    disk.reopen()
    disk.assert_exact()
    assert disk.get(1) is not None


def test_only_this_user_reads_the_files(disk):
    disk.put(1)
    assert disk.root.stat().st_mode & 0o077 == 0
    for place in disk.root.rglob("*"):
        assert place.stat().st_mode & 0o077 == 0, place


@pytest.mark.parametrize(
    ("instance_id", "folder"),
    [
        ("lmcache_default_instance", "lmcache_default_instance"),
        ("here_dp1", "here_dp1"),
        ("../../etc", "..%2F..%2Fetc"),
        ("..", "%2E%2E"),
        (".", "%2E"),
        ("a/b c", "a%2Fb%20c"),
    ],
)
def test_every_instance_has_a_folder_of_its_own(tmp_path, instance_id, folder):
    assert instance_folder(instance_id) == folder
    from lmcache_backend_local_disk.backend import LocalDiskBackend
    from lmcache_backend_local_disk.config import LocalDiskConfig

    context = BackendContext(instance_id=instance_id, tier="t")
    backend = LocalDiskBackend(LocalDiskConfig(path=str(tmp_path / "kv")), context)
    backend.open()
    backend.close()
    assert [place.name for place in (tmp_path / "kv").iterdir()] == [folder]
    assert [place.name for place in tmp_path.iterdir()] == ["kv"]


def test_frames_are_spread_over_folders_by_the_first_digits_of_their_keys(disk):
    for number in range(20):
        disk.put(number)
        key = sample_key(number)
        assert (disk.root / "frames" / f"{key[0]:02x}" / key.hex()).stat().st_size == 8192
    disk.assert_exact()


def test_a_scan_tells_what_was_used_longest_ago_first(disk):
    order = [5, 3, 9, 1, 7]
    for age, number in enumerate(order):
        disk.put(number)
        os.utime(disk.file(number), ns=(1000 * age, 1000 * age))
    os.utime(disk.file(3), ns=(999_000, 1000))  # read since
    disk.close()
    (disk.root / "index").unlink()
    disk.reopen()
    told = [key for key, _ in disk.backend.scan()]
    assert told == [sample_key(number) for number in (5, 9, 1, 7, 3)]


def test_where_direct_io_is_refused_files_go_through_the_cache(make_disk, monkeypatch, caplog):
    write = frame_file.FrameFiles.write

    def refuse(self, folder, name, frame):
        if self.direct:
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(self, folder, name, frame)

    monkeypatch.setattr(frame_file.FrameFiles, "write", refuse)
    disk = make_disk()
    assert caplog.text.count("disk.direct_io_unavailable") == 1
    assert disk.put(1).value == "stored"
    assert disk.get(1) == bytes(sample_frame(1, 8192))


def test_files_are_written_past_the_page_cache_where_that_works(disk, make_disk, tmp_path):
    (one,) = disk.backend._disks
    files = frame_file.FrameFiles(SYSTEM, direct=True)
    assert one.direct == files.direct_io_works(one.folder.root, "aside/asked")
    (other,) = make_disk(tmp_path / "other", direct_io=False).backend._disks
    assert not other.direct
