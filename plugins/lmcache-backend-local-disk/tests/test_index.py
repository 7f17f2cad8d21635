"""The index after a restart: from the snapshot where that holds, or else from the files."""

from __future__ import annotations

import os
import random
import time
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcache_backend_local_disk import ordering, shard
from lmcache_core.testing.material import sample_frame, sample_key
from tests.disk.calls_between import FailingCalls

COUNT = 40


class Listing(FailingCalls):
    """Counts the folders of frames that are listed."""

    def __init__(self):
        super().__init__()
        self.listed = 0

    def around(self, name, real, *arguments, **options):
        answer = super().around(name, real, *arguments, **options)
        if name == "listdir":
            folder = Path(f"/proc/self/fd/{arguments[0]}").readlink()
            self.listed += folder.parent.name == "frames"
        return answer


@pytest.fixture
def stopped(make_disk, monkeypatch):
    """A disk with frames, stopped long enough after the last change."""
    monkeypatch.setattr(shard, "SETTLED_NANOSECONDS", 0)
    disk = make_disk(calls=Listing())
    for number in range(COUNT):
        disk.put(number, 4096 + number)
    disk.remove(3)
    disk.backend.usage()
    # Within one tick of the file system's clock a folder changes unseen.
    before = time.time_ns()
    while not os.utime(disk.root / "store") and (disk.root / "store").stat().st_mtime_ns <= before:
        pass
    disk.close()
    disk.calls.listed = 0
    return disk


def expected(*gone):
    return sorted((sample_key(n), 4096 + n) for n in range(COUNT) if n not in (3, *gone))


def test_where_nothing_has_changed_nothing_is_listed(stopped):
    stopped.reopen()
    assert sorted(stopped.backend.scan()) == expected()
    assert stopped.calls.listed == 0
    stopped.assert_exact()
    assert stopped.get(5, 4096 + 5) == bytes(sample_frame(5, 4096 + 5))


def test_only_what_has_changed_is_listed(stopped):
    stopped.file(5).unlink()
    stopped.file(6).rename(stopped.path / "elsewhere")
    stopped.reopen()
    assert sorted(stopped.backend.scan()) == expected(5, 6)
    assert stopped.calls.listed == 2
    stopped.assert_exact()


def test_a_killed_process_leaves_what_was_written_down_before(stopped):
    stopped.reopen()
    stopped.put(100)
    stopped.remove(7)
    stopped.backend._disks._disks[0].folder.close()  # What a kill closes.
    stopped.backend.close()
    stopped.calls.listed = 0
    stopped.reopen()
    assert sorted(stopped.backend.scan()) == sorted([*expected(7), (sample_key(100), 8192)])
    assert stopped.calls.listed == 2
    stopped.assert_exact()


def test_a_folder_that_changed_just_now_is_listed(make_disk, monkeypatch):
    monkeypatch.setattr(shard, "SETTLED_NANOSECONDS", 3600 * 10**9)
    disk = make_disk(calls=Listing())
    disk.put(1)
    disk.close()
    disk.calls.listed = 0
    disk.reopen()
    assert list(disk.backend.scan()) == [(sample_key(1), 8192)]
    assert disk.calls.listed == 256


def test_the_order_of_use_survives(stopped):
    order = [n for n in range(COUNT) if n != 3]
    stopped.reopen()
    for number in (9, 4):
        stopped.get(number, 8192)
        order.append(order.pop(order.index(number)))
    stopped.reopen()
    assert [key for key, _ in stopped.backend.scan()] == [sample_key(n) for n in order]


def test_the_order_of_use_survives_in_a_folder_that_has_changed(stopped):
    order = [n for n in range(COUNT) if n != 3]
    stopped.reopen()
    stopped.get(9, 8192)
    order.append(order.pop(order.index(9)))
    stopped.close()
    for name in stopped.files():  # The files no longer know it.
        number = next(n for n in range(COUNT) if sample_key(n).hex() == name)
        os.utime(stopped.file(number), ns=(0, 0))
        (stopped.file(number).parent / "stray").touch()
    stopped.reopen()
    assert [key for key, _ in stopped.backend.scan()] == [sample_key(n) for n in order]


@given(st.lists(st.lists(st.integers(0, 50)), max_size=8), st.integers(1, 9), st.integers(1, 3))
def test_many_sorted_lists_are_merged(numbers, part, sampled):
    runs = [[(number, bytes([at])) for number in run] for at, run in enumerate(numbers)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordering, "PART", part * sampled)
        patch.setattr(ordering, "SAMPLED", sampled)
        parts = ordering.in_order([ordering.Run.sorted(run) for run in runs])
        assert list(chain.from_iterable(parts)) == sorted(chain.from_iterable(runs))


@given(st.dictionaries(st.binary(min_size=1, max_size=2), st.integers(0, 50)))
def test_a_run_is_in_the_order_of_use_whatever_the_clock_has_done(uses):
    run = ordering.Run.of(uses)
    assert list(run.uses) == sorted(uses.values())
    assert [uses[key] for key in run.keys] == list(run.uses)


@pytest.mark.parametrize("where", ["anywhere", "end", "gone", "empty", "foreign"])
def test_a_spoilt_snapshot_is_seen_and_the_files_are_listed(stopped, where, caplog):
    snapshot = stopped.root / "index"
    content = bytearray(snapshot.read_bytes())
    rng = random.Random(where)
    for _ in range(30 if where == "anywhere" else 1):
        spoilt = bytearray(content)
        if where == "anywhere":
            spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
        spoilt = {"end": spoilt[:-5], "empty": b"", "foreign": b"hello" * 40}.get(where, spoilt)
        snapshot.write_bytes(spoilt)
        if where == "gone":
            snapshot.unlink()
        stopped.calls.listed = stopped.metrics.totals["snapshot_failures"] = 0
        stopped.reopen()
        assert sorted(stopped.backend.scan()) == expected()
        assert stopped.calls.listed == 256
        assert stopped.metrics.totals["snapshot_failures"] == (where != "gone")
        stopped.backend._disks._disks[0].folder.close()


def test_a_snapshot_that_cannot_be_written_is_said_and_not_missed(stopped, caplog):
    stopped.reopen()
    stopped.backend.usage()
    stopped.put(100)
    stopped.calls.fault = 28
    stopped.calls.lasting = True
    stopped.calls.nth = stopped.calls.seen + 1
    stopped.close()
    stopped.calls.nth = 0
    assert "disk.snapshot_failed" in caplog.text
    stopped.reopen()
    assert (sample_key(100), 8192) in list(stopped.backend.scan())
    stopped.assert_exact()
