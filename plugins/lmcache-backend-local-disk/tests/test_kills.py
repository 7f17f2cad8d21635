"""A process killed in the middle of its work leaves whole frames and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lmcache_core.api import Deadline
from lmcache_core.testing.material import sample_key
from tests.disk.crash_run import Oracle
from tests.disk.frames import frame_bytes

KILLS = 50


@pytest.mark.slow
def test_after_every_kill_what_was_done_is_done_and_nothing_is_half_done(record_property):
    command = [sys.executable, "-m", "tests.disk.crash_run", "--kills", str(KILLS), "--json"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert run.returncode == 0, run.stderr
    figures = json.loads(run.stdout)
    assert figures["kills"] >= KILLS
    assert figures["places"] >= 25
    assert figures["places_killed_at"] >= 20, figures["not_killed_at"]
    assert figures["random"] >= 10
    record_property("seed", figures["seed"])


@pytest.fixture
def one_frame(make_disk):
    """A disk with one frame, and an oracle that has heard of it."""
    disk = make_disk(direct_io=False)
    disk.backend.put([sample_key(1)], [memoryview(frame_bytes(1))], Deadline(30))
    oracle = Oracle()
    oracle.heard(["begun put 1", "done put 1", "begun remove 2"])
    return disk, lambda: " ".join(oracle.faults(disk.path, disk.backend))


def test_the_oracle_has_nothing_to_say_of_what_is_right(one_frame):
    disk, faults = one_frame
    assert faults() == ""
    disk.reopen()
    assert faults() == ""


def plant_behind_its_back(disk):
    disk.backend.usage()
    disk.file(2).write_bytes(frame_bytes(2))


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda disk: disk.file(1).unlink(), "frame 1 is gone"),
        (lambda disk: disk.file(1).write_bytes(frame_bytes(1)[:-1]), "is damaged: frame of"),
        (lambda disk: disk.file(1).write_bytes(frame_bytes(1)[:-1] + b"?"), "not what was written"),
        (lambda disk: disk.put(3), "frame 3 is there"),
        (lambda disk: (disk.root / "aside" / "left").touch(), "not finished"),
        (plant_behind_its_back, "accounted for"),
    ],
)
def test_the_oracle_sees_what_is_wrong(one_frame, spoil, fault):
    disk, faults = one_frame
    spoil(disk)
    assert fault in faults()
