"""When what was put is synced, and how many share one sync."""

from __future__ import annotations

import threading

import pytest

from lmcache_backend_local_disk.group_commit import GroupCommit
from lmcache_core.api import Deadline, PutStatus
from lmcache_core.errors import DeadlineExceededError
from lmcache_core.testing.material import sample_frame, sample_key
from tests.disk.calls_between import CallsBetween


class Syncs(CallsBetween):
    """Counts syncs; lets whoever syncs wait."""

    def __init__(self):
        super().__init__(("fsync", "syncfs"))
        self.count = {"fsync": 0, "syncfs": 0}
        self.may = threading.Event()
        self.may.set()
        self.waits = threading.Event()

    def around(self, name, real, *arguments, **options):
        self.count[name] += 1
        self.waits.set()
        assert self.may.wait(30)
        return real(*arguments, **options)


def put_all(disk, numbers):
    frames = [sample_frame(number, 8192) for number in numbers]
    return disk.backend.put([sample_key(number) for number in numbers], frames, Deadline(30))


@pytest.mark.parametrize("durability", ["none", "interval"])
def test_a_put_syncs_nothing(make_disk, durability):
    disk = make_disk(calls=Syncs(), durability=durability, sync_interval=3600)
    before = dict(disk.calls.count)
    assert set(put_all(disk, range(5))) == {PutStatus.STORED}
    assert disk.calls.count == before
    disk.backend.sync(Deadline(30))
    assert disk.calls.count != before


def test_what_is_put_is_synced_before_it_is_said_to_be_stored(make_disk):
    disk = make_disk(calls=Syncs(), durability="always")
    disk.calls.may.clear()
    disk.calls.waits.clear()
    said = []
    thread = threading.Thread(target=lambda: said.append(disk.put(1)))
    thread.start()
    assert disk.calls.waits.wait(30)
    assert (said, disk.stat(1), disk.aside()) == ([], None, ["0"])
    disk.calls.may.set()
    thread.join(30)
    assert said == [PutStatus.STORED]
    assert disk.get(1) == bytes(sample_frame(1, 8192))
    assert disk.metrics.totals["synced_frames"] == 1


def test_what_many_put_at_once_shares_a_sync(make_disk):
    disk = make_disk(calls=Syncs(), durability="always")
    disk.calls.may.clear()
    disk.calls.waits.clear()
    said = []

    def put(number):
        said.append(disk.put(number))

    threads = [threading.Thread(target=put, args=(number,)) for number in range(10)]
    threads[0].start()
    assert disk.calls.waits.wait(30)
    for thread in threads[1:]:
        thread.start()
    (one,) = disk.backend._disks
    deadline = Deadline(30)
    while len(one._group._gathering) < 9:
        deadline.check("waiting for the others")
    disk.calls.may.set()
    for thread in threads:
        thread.join(30)
    assert said == [PutStatus.STORED] * 10
    assert disk.metrics.totals["syncs"] == 2, "the first one's, and that of all others"
    assert disk.metrics.totals["synced_frames"] == 10
    disk.assert_exact()


def test_a_batch_shares_a_sync(make_disk):
    disk = make_disk(calls=Syncs(), durability="always")
    assert set(put_all(disk, range(6))) == {PutStatus.STORED}
    assert disk.metrics.totals["syncs"] == 1


def test_who_comes_upon_a_frame_that_is_not_durable_yet_waits_for_it(make_disk):
    disk = make_disk(calls=Syncs(), durability="always")
    named, may = threading.Event(), threading.Event()

    def hold_the_folder(_):
        if disk.file(1).exists():
            named.set()
            assert may.wait(30)

    disk.calls.fsync = hold_the_folder
    said = []
    first = threading.Thread(target=lambda: said.append(disk.put(1)))
    first.start()
    assert named.wait(30)
    second = threading.Thread(target=lambda: said.append(disk.put(1)))
    second.start()
    second.join(0.2)
    assert said == []
    may.set()
    for thread in (first, second):
        thread.join(30)
    assert sorted(status.value for status in said) == ["present", "stored"]


def test_an_interval_syncs_by_itself(make_disk):
    disk = make_disk(durability="interval", sync_interval=0.01)
    disk.put(1)
    deadline = Deadline(30)
    while disk.metrics.totals["syncs"] < 2:
        deadline.check("waiting for a sync")


def test_who_waits_too_long_for_a_sync_has_not_put_anything(make_disk):
    disk = make_disk(calls=Syncs(), durability="always")
    disk.calls.may.clear()
    disk.calls.waits.clear()
    first = threading.Thread(target=disk.put, args=(1,))
    first.start()
    assert disk.calls.waits.wait(30)
    with pytest.raises(DeadlineExceededError, match="waiting for a sync"):
        disk.backend.put([sample_key(2)], [sample_frame(2, 8192)], Deadline(0.2))
    disk.calls.may.set()
    first.join(30)
    assert disk.stat(2) is None
    disk.assert_exact()
    assert disk.put(2) is PutStatus.STORED


def test_everything_handed_in_is_committed_once_and_by_when_it_is_said():
    committed, groups = set(), []

    def commit(group):
        groups.append(len(group))
        committed.update(group)

    group_commit = GroupCommit(commit)
    wrong = []

    def work(thread):
        for number in range(200):
            item = (thread, number)
            group_commit.commit([item], Deadline(30))
            if item not in committed:
                wrong.append(item)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert sum(groups) == len(committed) == 1200
