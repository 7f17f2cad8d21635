"""``lmcache disk`` over folders that an engine has left, has open, or never had."""

from __future__ import annotations

import errno
import json
import os
import time
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from lmcache_backend_local_disk.cli import verifying
from lmcache_core.api import Deadline
from lmcache_core.cli.main import main
from lmcache_core.testing.material import sample_key
from tests.disk.frames import frame_bytes, whole_frame

NUMBERS = range(6)


def run(*arguments, status=0):
    result = CliRunner().invoke(main, ["disk", *map(str, arguments)], terminal_width=200)
    assert result.exit_code == status, result.output
    return result.output


def rows(*arguments, status=0):
    return json.loads(run(*arguments, "--json", status=status))


@pytest.fixture
def filled(make_disk):
    """A disk with frames and one quarantined file, open."""
    disk = make_disk()
    keys = [sample_key(number) for number in NUMBERS]
    disk.backend.put(keys, [whole_frame(number) for number in NUMBERS], Deadline(30))
    disk.put(50)
    disk.quarantine(50, "it smells")
    return disk


def snapshot_of(root):
    """All that is in a folder, but for when it was read."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in root.rglob("*")
    }


def spoil(disk, number):
    with disk.file(number).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))


def test_inspect_tells_what_is_there_and_changes_nothing(filled):
    (filled.root / "frames" / "00" / "README").write_text("hello")
    (filled.root / "aside" / "7").write_bytes(b"half")
    before = snapshot_of(filled.root)
    (row,) = rows("inspect", filled.path)
    assert snapshot_of(filled.root) == before
    assert row["folder"] == str(filled.root)
    assert f"process {os.getpid()} on " in row["open_in"]
    assert f"disk:{row['store']}" == filled.backend.store_id
    assert (row["frames"], row["frames_bytes"]) == (
        len(NUMBERS),
        sum(len(frame_bytes(number)) for number in NUMBERS),
    )
    assert (row["unfinished"], row["unfinished_bytes"], row["no_frames"]) == (1, 4, 1)
    assert (row["quarantined"], row["quarantined_bytes"]) == (1, 8192)
    assert [one["reason"] for one in row["quarantine"]] == ["it smells"]
    assert row["index"] == "none"
    filled.close()
    (row,) = rows("inspect", filled.root)
    assert row["open_in"] is None
    assert row["index"].startswith("holds for ")


def test_inspect_tells_people_too(filled):
    text = run("inspect", filled.path)
    assert str(filled.root) in text.replace("\n", "")
    assert "it smells" in text
    assert "8.0 KiB" in text


def test_verify_names_what_is_damaged_and_changes_nothing(filled):
    assert [row["damaged_files"] for row in rows("verify", filled.path)] == [0]
    spoil(filled, 2)
    filled.file(3).write_bytes(frame_bytes(4))
    before = snapshot_of(filled.root)
    (row,) = rows("verify", filled.path, status=1)
    assert "process" in row["open_in"]
    assert snapshot_of(filled.root) == before
    assert row["verified"] == len(NUMBERS)
    reasons = {one["file"]: one["reason"] for one in row["damaged"]}
    assert reasons.keys() == {str(filled.file(2)), str(filled.file(3))}
    assert "checksum of the payload" in reasons[str(filled.file(2))]
    assert "another key" in reasons[str(filled.file(3))]
    assert "checksum of the payload" in run("verify", filled.path, status=1)


def test_scrub_quarantines_what_is_damaged(filled):
    spoil(filled, 2)
    filled.close()
    (row,) = rows("scrub", filled.path, status=1)
    assert row["damaged_files"] == 1
    assert "checksum of the payload" in filled.quarantined()[sample_key(2).hex()]
    assert [row["damaged_files"] for row in rows("scrub", filled.path)] == [0]
    filled.reopen()
    filled.assert_exact()
    assert filled.stat(2) is None
    assert filled.get(4, len(frame_bytes(4))) == frame_bytes(4)


def test_a_folder_may_be_named_from_where_one_is(filled, monkeypatch):
    monkeypatch.chdir(filled.path.parent)
    (row,) = rows("verify", filled.path.name)
    assert (row["verified"], row["damaged"]) == (len(NUMBERS), [])
    filled.close()
    (row,) = rows("scrub", filled.path.name)
    assert (row["verified"], row["damaged"]) == (len(NUMBERS), [])
    filled.reopen()
    assert all(filled.stat(number) for number in NUMBERS)


@pytest.mark.parametrize("command", ["verify", "scrub"])
def test_a_file_that_this_process_cannot_read_is_not_called_damaged(filled, monkeypatch, command):
    def refuse(path, *_, dir_fd=None):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    filled.close()
    monkeypatch.setattr(verifying, "SYSTEM", SimpleNamespace(open=refuse))
    said = run(command, filled.path, status=2)
    assert "Permission denied" in said
    assert "this user" in said
    filled.reopen()
    assert all(filled.stat(number) for number in NUMBERS)


def test_gc_removes_what_is_of_no_use(filled):
    filled.close()
    (filled.root / "aside" / "7").write_bytes(b"half")
    (filled.root / "frames" / "00" / "README").write_text("hello")
    (row,) = rows("gc", filled.path)
    assert (row["unfinished_removed"], row["unfinished_removed_bytes"]) == (1, 4)
    assert row["strangers_quarantined"] == 1
    assert len(filled.quarantined()) == 2
    (row,) = rows("gc", filled.path, "--quarantine")
    assert row["quarantine_removed"] == 2
    assert list((filled.root / "quarantine").iterdir()) == []
    filled.reopen()
    assert filled.backend.usage().frames == len(NUMBERS)


def test_gc_removes_what_was_not_used_for_long(filled):
    filled.close()
    (filled.root / "index").unlink()
    for number in (1, 4):
        os.utime(filled.file(number), ns=(0, 0))
    (row,) = rows("gc", filled.path, "--unused-for", 30)
    assert row["unused_removed"] == 2
    assert row["unused_removed_bytes"] == len(frame_bytes(1)) + len(frame_bytes(4))
    filled.reopen()
    assert {n for n in NUMBERS if filled.stat(n)} == set(NUMBERS) - {1, 4}


@pytest.mark.parametrize("command", ["scrub", "gc"])
def test_what_changes_a_folder_leaves_one_alone_that_an_engine_has(filled, command):
    before = snapshot_of(filled.root)
    text = run(command, filled.path, status=2)
    assert f"belongs to another engine (process {os.getpid()}" in text
    assert snapshot_of(filled.root) == before


@pytest.mark.parametrize("command", ["inspect", "verify", "scrub", "gc"])
@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_is_none_of_ours_is_a_sentence(tmp_path, command, there):
    place = tmp_path if there else tmp_path / "nowhere"
    assert "is no folder of a disk tier" in run(command, place, status=2).replace("\n", " ")
    assert list(tmp_path.iterdir()) == []


def test_the_folders_of_all_instances_are_looked_at(make_disk, tmp_path):
    make_disk(tmp_path).close()
    (tmp_path / "one").rename(tmp_path / "two")
    make_disk(tmp_path).close()
    (tmp_path / "a strangers").mkdir()
    assert [row["folder"] for row in rows("inspect", tmp_path)] == [
        str(tmp_path / "one"),
        str(tmp_path / "two"),
    ]


def test_a_rate_is_kept_to(filled):
    (row,) = rows("inspect", filled.path)
    mebibytes = row["frames_bytes"] / (1 << 20)
    begun = time.monotonic()
    rows("verify", filled.path, "--rate", mebibytes / 0.4)
    assert time.monotonic() - begun >= 0.4
