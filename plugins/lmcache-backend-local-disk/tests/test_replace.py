"""A frame that takes the place of another, whichever call fails and whenever power is lost."""

from __future__ import annotations

import ast
import errno
import inspect
import os
import random
import textwrap
from contextlib import suppress

import pytest

from lmcache_backend_local_disk.disk import Disk as OneDisk
from lmcache_core.api import Deadline, PutStatus
from lmcache_core.errors import BackendError
from lmcache_core.testing.material import sample_frame, sample_key
from tests.disk.calls_between import FailingCalls
from tests.disk.power_loss import LosingCalls, PowerLoss

OLD, NEW = 3 * 4096 + 100, 2 * 4096 + 5
FAULTS = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EINTR, "short")
MOST_CALLS = 40


def replace(disk, number=1, by=101, nbytes=NEW):
    frame = sample_frame(by, nbytes)
    return disk.backend.replace([sample_key(number)], [frame], Deadline(30))[0]


def form(disk):
    """Which of the two is there, whole; None for neither."""
    found = disk.get(1, OLD)
    forms = {bytes(sample_frame(1, OLD)): "old", bytes(sample_frame(101, NEW)): "new"}
    return forms.get(found)


def put_back(disk):
    disk.remove(1)
    assert disk.put(1, OLD) is PutStatus.STORED


def said_by(do):
    try:
        return do(), None
    except BackendError as error:
        return None, str(error)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize("durability", ["none", "always"])
def test_whichever_call_fails_one_of_the_two_is_there_whole(make_disk, fault, durability):
    calls = FailingCalls()
    disk = make_disk(calls=calls, durability=durability, min_free_space=1e-9)
    put_back(disk)
    disk.backend.usage()
    hit = set()
    for nth in range(1, MOST_CALLS):
        calls.nth, calls.fault, calls.hit = calls.seen + nth, fault, None
        replaced, said = said_by(lambda: replace(disk))
        over = calls.seen < calls.nth
        calls.nth = 0
        if over:
            break
        hit.add(calls.hit)
        disk.assert_usage_exact()
        assert form(disk) in {"old", "new"}
        if replaced:
            assert form(disk) == "new"
        elif fault == errno.ENOSPC:
            assert replaced is False or os.strerror(fault) in said
        else:
            assert os.strerror(fault) in said
        assert replace(disk) is True
        assert form(disk) == "new"
        put_back(disk)
    else:
        pytest.fail(f"it makes more than {MOST_CALLS} calls")
    if fault == "short":
        assert hit == {"pwritev", None}
    else:
        assert hit >= {"open", "pwritev", "ftruncate", "fsync", "close", "rename", "fstatvfs"}
    disk.reopen()
    disk.assert_exact()


def after_a_loss(make_disk, tmp_path, durability, off_after, ignored=frozenset()):
    """What is left, where power goes so many calls into a replacement, and what was said of it."""
    place = tmp_path / f"{durability}-{off_after}"
    before = make_disk(place / "before", durability="always")
    put_back(before)
    before.close()
    calls = LosingCalls(place / "before", None, ignored)
    disk = make_disk(place / "before", calls=calls, durability=durability)
    disk.backend.usage()
    calls.left = off_after
    replaced = None
    with suppress(PowerLoss):
        replaced = replace(disk)
    over = replaced is not None
    calls.left = None
    for routine in disk.backend._routines:
        routine.close()
    calls.lose_power(place / "after", random.Random(off_after))
    disk.backend = before.backend  # What it has open is not its own any more.
    return make_disk(place / "after"), replaced, over


@pytest.mark.parametrize("durability", ["none", "interval", "always"])
def test_whenever_power_is_lost_one_of_the_two_is_there_whole(make_disk, tmp_path, durability):
    forms = set()
    for off_after in range(MOST_CALLS):
        left, replaced, over = after_a_loss(make_disk, tmp_path, durability, off_after)
        assert form(left) in {"old", "new"}
        if replaced and durability == "always":
            assert form(left) == "new"
        forms.add(form(left))
        left.assert_exact()
        if over:
            break
    assert over
    assert "old" in forms


def test_without_the_sync_before_the_name_it_is_noticed(make_disk, tmp_path):
    source = textwrap.dedent(inspect.getsource(OneDisk._commit))
    first = inspect.getsourcelines(OneDisk._commit)[1]
    places = frozenset(
        ("disk.py", first + node.lineno - 1)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "fsync"
    )
    assert len(places) == 2
    for off_after in range(MOST_CALLS):
        left, _, _ = after_a_loss(make_disk, tmp_path, "none", off_after, places)
        if form(left) is None:
            return
    pytest.fail("nothing was wrong without the syncs")


def test_of_several_disks_the_one_that_has_a_frame_gets_the_new_one(make_disk, tmp_path):
    disk = make_disk(*(tmp_path / name for name in "abc"))
    for number in range(12):
        disk.put(number, OLD)
    before = {path.relative_to(tmp_path) for path in tmp_path.rglob("frames/*/*")}
    for number in range(12):
        assert replace(disk, number, 100 + number) is True
        assert disk.get(number, OLD) == bytes(sample_frame(100 + number, NEW))
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("frames/*/*")} == before
    assert disk.backend.usage() == (12 * NEW, 12)


def test_without_room_above_the_floor_the_old_one_stays(make_disk):
    disk = make_disk(min_free_space=0)
    put_back(disk)
    for one in disk.backend._disks:
        one._floor = 1 << 62
    assert replace(disk) is False
    assert form(disk) == "old"
    disk.assert_exact()
