"""Kill a process that works on a disk, again and again, and compare what is left with an oracle.

    python -m tests.disk.crash_run [--kills 2000] [--seconds N] [--seed N] [--only ROUND]
        [--folder PATH] [--json]

A round begins with an empty folder. A child process opens the backend and
writes, replaces, reads, removes, quarantines and syncs from three threads; it is killed
by its parent at a random moment, or kills itself before, within or after a
call from one of the places that a rehearsal has found: every one of them has
its turn. Then the parent opens the backend and looks: what was acknowledged is
there, whole; what was removed is not; nothing half written is under any name;
what is accounted for is what the files take. The next child goes on from there.

A seed replays the whole run, and `--only` one round of it: the same work, the
same kill points. Where a thread is when another is killed is the kernel's.
"""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from lmcache_backend_local_disk.backend import LocalDiskBackend
from lmcache_backend_local_disk.calls import SYSTEM, SystemCalls
from lmcache_backend_local_disk.config import LocalDiskConfig
from lmcache_backend_local_disk.frame_check import FrameCheck
from lmcache_core.api import BackendContext, Deadline, PutStatus
from lmcache_core.testing.material import aligned_buffer, sample_key
from tests.disk.calls_between import KillingCalls, RecordingCalls
from tests.disk.frames import LONGEST, version_of, whole_frame
from tests.disk.kill_rounds import main

THREADS = 3
FRAMES = 30
STEPS = 40
KILLS_A_ROUND = 10
LONGEST_LIFE_SECONDS = 20.0
DEEDS = ("put", "put", "put", "replace", "get", "remove", "quarantine", "sync")
DURABILITY = ("none", "interval", "always")


class Kill(NamedTuple):
    """How a child ends: at a place, or by its parent after so many lines."""

    point: str | None
    when: str
    nth: int
    lines: int


def make(folder: Path, durability: str, calls: SystemCalls = SYSTEM) -> LocalDiskBackend:
    config = LocalDiskConfig(
        path=str(folder), durability=durability, sync_interval=0.01, scrub_rate=0
    )
    return LocalDiskBackend(config, BackendContext(instance_id="one", tier="t"), calls)


class Work:
    """What a child does, and what it says of it before and after.

    Args:
        backend: The store, open.
        seed: Decides what is done, by each thread for itself.
        say: Takes a line.
    """

    def __init__(self, backend: LocalDiskBackend, seed: int, say: object) -> None:
        self._backend = backend
        self._seed = seed
        self._say = say

    def run(self, steps: int) -> None:
        """Work on all threads."""
        threads = [
            threading.Thread(target=self._thread, args=(number, steps), daemon=True)
            for number in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _thread(self, number: int, steps: int) -> None:
        rng = random.Random(f"{self._seed}-{number}")
        # No two threads use one key, so that each knows what its own is.
        mine = range(number, FRAMES, THREADS)
        for _ in range(steps):
            what = rng.choice(DEEDS)
            self.step(what, rng.choice(mine))

    def step(self, what: str, number: int) -> None:
        """Do one thing."""
        backend, key, within = self._backend, sample_key(number), Deadline(30)
        self._say(f"begun {what} {number}\n")
        if what == "put":
            (status,) = backend.put([key], [whole_frame(number)], within)
            assert status in (PutStatus.STORED, PutStatus.PRESENT), status
        elif what == "get":
            buffer = aligned_buffer(LONGEST)
            (nbytes,) = backend.get([key], [buffer], within)
            assert nbytes is None or version_of(number, bytes(buffer[:nbytes])) is not None
        elif what == "replace":
            backend.replace([key], [whole_frame(number, 1)], within)
        elif what == "remove":
            backend.remove([key], within)
        elif what == "quarantine":
            backend.quarantine([key], ["a test"], within)
        else:
            backend.sync(within)
        self._say(f"done {what} {number}\n")


class Oracle:
    """What has to be there, by what was said."""

    def __init__(self) -> None:
        self.there: set[int] = set()
        self.doubtful: set[int] = set()
        self.versions: dict[int, int] = {}
        self.acknowledged = 0

    def heard(self, lines: list[str]) -> None:
        under_way: set[int] = set()
        for line in lines:
            state, what, word = line.split()
            number = int(word)
            if what in ("get", "sync"):
                continue
            if what == "replace":
                # While it is under way either may be there, but one of them is.
                self.versions.pop(number, None)
                if state == "done":
                    self.acknowledged += 1
                    self.versions[number] = 1
                continue
            if state == "begun":
                under_way.add(number)
                continue
            under_way.discard(number)
            self.acknowledged += 1
            if what == "put" and number not in self.there:
                self.versions[number] = 0
            (self.there.add if what == "put" else self.there.discard)(number)
        self.doubtful = under_way

    def faults(self, folder: Path, backend: LocalDiskBackend) -> list[str]:
        """Look at what is left, from within and from without."""
        wrong = []
        files = {file.name: file for file in (folder / "one" / "frames").glob("*/*")}
        held = {n for n in range(FRAMES) if sample_key(n).hex() in files}
        for number in (held ^ self.there) - self.doubtful:
            state = "is there" if number in held else "is gone"
            wrong.append(f"frame {number} {state}")
        self.there = held
        check, buffer = FrameCheck(SYSTEM, direct=False), aligned_buffer(LONGEST)
        for number in held:
            key = sample_key(number)
            reason = check.reason(-1, str(files[key.hex()]), key)
            if reason:
                wrong.append(f"the file of frame {number} is damaged: {reason}")
            (nbytes,) = backend.get([key], [buffer], Deadline(30))
            version = None if nbytes is None else version_of(number, bytes(buffer[:nbytes]))
            if version is None:
                wrong.append(f"frame {number} is not what was written")
            elif number not in self.doubtful and self.versions.get(number, version) != version:
                wrong.append(f"frame {number} is what was there before")
            else:
                self.versions[number] = version
        listed = dict(backend.scan())
        sizes = {bytes.fromhex(name): file.stat().st_size for name, file in files.items()}
        if listed != sizes or backend.usage() != (sum(sizes.values()), len(sizes)):
            wrong.append("what is accounted for is not what is there")
        if any((folder / "one" / "aside").iterdir()):
            wrong.append("what was not finished is still there")
        return wrong


def rehearse(seed: int, place: Path | None) -> dict[str, dict[str, int]]:
    """By durability, the places to kill at: each call from each function, and how often."""
    points = {}
    for durability in DURABILITY:
        calls = RecordingCalls()
        with tempfile.TemporaryDirectory(dir=place) as name:
            backend = make(Path(name), durability, calls)
            backend.open()
            Work(backend, seed, lambda _: None).run(STEPS)
            backend.close()
        points[durability] = calls.points
    return points


def live(folder: Path, durability: str, seed: int, kill: Kill) -> tuple[list[str], bool]:
    """One life of a child; what it said, and whether it killed itself.

    Raises:
        RuntimeError: It ended in another way.
        TimeoutError: It did not end.
    """
    told, say = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(told)
            calls = SYSTEM if kill.point is None else KillingCalls(kill.point, kill.when, kill.nth)
            backend = make(folder, durability, calls)
            backend.open()
            Work(backend, seed, lambda line: os.write(say, line.encode())).run(STEPS)
            backend.close()
        except BaseException:  # noqa: BLE001 - a child must not go on as its parent
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(say)
    said = bytearray()
    deadline = time.monotonic() + LONGEST_LIFE_SECONDS
    try:
        while True:
            if not select.select([told], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError  # noqa: TRY301 - the child is ended below
            piece = os.read(told, 1 << 16)
            said += piece
            if not piece:
                break
            if kill.point is None and said.count(b"\n") >= kill.lines:
                os.kill(child, signal.SIGKILL)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(told)
        _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError("a child failed; its traceback is above")
    lines = said.decode().split("\n")[:-1]
    return lines, os.WIFSIGNALED(status)


def next_kill(rng: random.Random, points: dict[str, int], turn: int) -> Kill:
    """The next kill: each place in its turn, and every third at a random moment."""
    if turn % 3 == 2:
        return Kill(None, "random", 0, rng.randrange(1, 200))
    point = sorted(points)[(turn - turn // 3) % len(points)]
    nth = rng.randrange(max(1, points[point] // 2)) + 1
    return Kill(point, rng.choice(("before", "within", "after")), nth, 0)


class Run:
    """Rounds of kills, counted.

    Args:
        seed: Decides everything but where threads are.
        place: Where folders are made.
    """

    def __init__(self, seed: int, place: Path | None) -> None:
        self.seed = seed
        self._place = place
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self._points = rehearse(seed, place)
        self._names = {point for points in self._points.values() for point in points}

    @property
    def places(self) -> dict[str, int]:
        """How often a child was killed at each place."""
        return {name: self.counts[f"at {name}"] for name in self._names}

    def round(self, number: int) -> None:
        """Some lives over one folder."""
        rng = random.Random(f"{self.seed}-{number}")
        durability = DURABILITY[number % len(DURABILITY)]
        folder = Path(tempfile.mkdtemp(prefix="lmcache-crash-", dir=self._place))
        oracle = Oracle()
        first = number * KILLS_A_ROUND
        try:
            for turn in range(first, first + KILLS_A_ROUND):
                points = self._points[durability]
                if turn == first:  # Only then there are folders to be made.
                    points = {point: n for point, n in points.items() if "mkdir" in point}
                kill = next_kill(rng, points, turn)
                lines, killed = live(folder, durability, rng.randrange(1 << 30), kill)
                oracle.heard(lines)
                self._count(kill, killed=killed)
                backend = make(folder, durability)
                backend.open()
                faults = oracle.faults(folder, backend)
                backend.close()
                if faults:
                    self.faults += [f"round {number}, {durability}, {kill}: {f}" for f in faults]
                    return
        finally:
            self.counts["acknowledged"] += oracle.acknowledged
            shutil.rmtree(folder, ignore_errors=True)

    def _count(self, kill: Kill, *, killed: bool) -> None:
        self.counts["lives"] += 1
        self.counts["kills"] += killed
        if killed:
            self.counts[f"at {kill.point}" if kill.point else "at a random moment"] += 1


if __name__ == "__main__":
    sys.exit(main(__doc__.splitlines()[0], Run))
