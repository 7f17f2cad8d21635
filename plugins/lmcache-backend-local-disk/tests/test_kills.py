"""A process killed in the middle of its work leaves whole frames and nothing else."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from lmcache_core.testing.material import sample_frame

KILLS = 30
SIZE = (64 << 10) + 100

CHILD = """
import random, sys
from lmcache_backend_local_disk.backend import LocalDiskBackend
from lmcache_backend_local_disk.config import LocalDiskConfig
from lmcache_core.api import BackendContext, Deadline
from lmcache_core.testing.material import sample_frame, sample_key
path, seed, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
backend = LocalDiskBackend(LocalDiskConfig(path=path), BackendContext(instance_id="one", tier="t"))
backend.open()
rng = random.Random(seed)
while True:
    number = rng.randrange(40)
    what = rng.choice(("put", "put", "put", "remove", "quarantine"))
    print("begun", what, number, flush=True)
    if what == "put":
        backend.put([sample_key(number)], [sample_frame(number, size)], Deadline(30))
    elif what == "remove":
        backend.remove([sample_key(number)], Deadline(30))
    else:
        backend.quarantine([sample_key(number)], ["a test"], Deadline(30))
    print("done", what, number, flush=True)
"""


@pytest.mark.slow
def test_after_every_kill_what_was_done_is_done_and_nothing_is_half_done(disk):
    there = set()
    rng = random.Random(1)
    for seed in range(KILLS):
        disk.close()
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(disk.path), str(seed), str(SIZE)],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            lines = [child.stdout.readline() for _ in range(rng.randrange(1, 60))]
        finally:
            child.kill()
        with child.stdout as told:
            lines += told
        child.wait(30)
        begun = None
        for line in lines:
            if not line.endswith("\n"):
                continue
            state, what, number = line.split()
            if state == "begun":
                begun = int(number)
            else:
                begun = None
                (there.add if what == "put" else there.discard)(int(number))
        disk.reopen()
        held = {number for number in range(40) if disk.stat(number) is not None}
        # What was under way may be done or not.
        assert held ^ there <= {begun}, seed
        there = held
        for number in held:
            assert disk.get(number, SIZE) == bytes(sample_frame(number, SIZE)), seed
        disk.assert_exact()
        assert len(disk.files()) == len(held)
