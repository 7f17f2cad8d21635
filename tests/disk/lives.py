"""Lives of a backend that end with a loss of power, and what is wrong with what is left.

    python -m tests.disk.lives [--lives 1000] [--seed N]

Each life does some of everything and loses power at a random system call; the
next one goes on from what is left. A seed replays them.
"""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from lmcache_backend_local_disk.backend import LocalDiskBackend
from lmcache_backend_local_disk.calls import SYSTEM
from lmcache_backend_local_disk.config import LocalDiskConfig
from lmcache_backend_local_disk.frame_check import FrameCheck
from lmcache_backend_local_disk.unsynced import MOST_FILES
from lmcache_core.api import BackendContext, Deadline, PutStatus
from lmcache_core.testing.material import aligned_buffer, sample_key
from tests.disk.frames import LONGEST, version_of, whole_frame
from tests.disk.power_loss import LosingCalls, PowerLoss

FRAMES = 12
DEEDS = ("put", "put", "put", "replace", "remove", "quarantine", "sync")
MODES = ("always", "sync", "interval")
MEMORY = Path("/dev/shm")


class Life:
    """One life of a backend, from its start to a loss of power.

    Attributes:
        durable: Numbers of frames that were said to be durable.
        gone: Numbers of frames that were removed, and a sync has followed.
        versions: By number, what has to be under it, of those that were
            written in this life and are durable as soon as that is said.
        store_id: The name of the store, once the start was over.
    """

    def __init__(self, calls: LosingCalls, mode: str, rng: random.Random) -> None:
        self.durable: set[int] = set()
        self.gone: set[int] = set()
        self.there: set[int] = set()
        self.versions: dict[int, int] = {}
        self.store_id: str | None = None
        self._mode = mode
        self._rng = rng
        options = {"interval": "interval", "always": "always"}
        config = LocalDiskConfig(
            path=str(calls.base),
            durability=options.get(mode, "none"),
            sync_interval=3600,
            scrub_rate=0,
        )
        self._backend = LocalDiskBackend(config, BackendContext(instance_id="one", tier="t"), calls)
        for disk in self._backend._disks:
            disk.folder.unsynced.most_files = rng.choice((2, MOST_FILES))
            disk.syncing.at_once = 1  # Or else a seed would not replay it.

    def live(self) -> None:
        backend, rng = self._backend, self._rng
        backend.open()
        self.there.update(n for n in range(FRAMES) if backend.stat([sample_key(n)], soon())[0])
        if self._mode != "sync":
            self.store_id = backend.store_id
            self.durable.update(self.there)
        for _ in range(rng.randrange(1, 40)):
            getattr(self, rng.choice(DEEDS))()

    def put(self) -> None:
        numbers = self._rng.sample(range(FRAMES), self._rng.randrange(1, 4))
        keys = [sample_key(number) for number in numbers]
        self.gone.difference_update(numbers)
        statuses = self._backend.put(keys, [whole_frame(number) for number in numbers], soon())
        assert set(statuses) <= {PutStatus.STORED, PutStatus.PRESENT}
        self.there.update(numbers)
        if self._mode == "always":
            self.durable.update(numbers)
            stored = [n for n, s in zip(numbers, statuses, strict=True) if s is PutStatus.STORED]
            self.versions.update(dict.fromkeys(stored, 0))

    def replace(self) -> None:
        number = self._rng.randrange(FRAMES)
        self.versions.pop(number, None)  # It may be either, until it is done.
        frame = whole_frame(number, 1)
        (replaced,) = self._backend.replace([sample_key(number)], [frame], soon())
        assert replaced is (number in self.there)
        if replaced and self._mode == "always":
            self.versions[number] = 1

    def remove(self) -> None:
        self._leave(lambda key: self._backend.remove([key], soon()))

    def quarantine(self) -> None:
        self._leave(lambda key: self._backend.quarantine([key], ["a test"], soon()))

    def sync(self) -> None:
        if self._mode == "interval":
            (routine,) = [one for one in self._backend._routines if "sync" in one._thread.name]
            routine._work()
        else:
            self._backend.sync(soon())
        self.durable.update(self.there)
        self.gone.update({*range(FRAMES)} - self.there)
        self.store_id = self._backend.store_id

    def _leave(self, leave) -> None:
        number = self._rng.randrange(FRAMES)
        self.durable.discard(number)
        self.there.discard(number)
        self.versions.pop(number, None)
        leave(sample_key(number))

    def stop(self) -> None:
        for routine in self._backend._routines:
            routine.close()


def soon() -> Deadline:
    return Deadline(30)


def faults_after(base: Path, life: Life, mode: str) -> list[str]:
    """What is wrong with what was left."""
    config = LocalDiskConfig(path=str(base), durability="none", scrub_rate=0)
    backend = LocalDiskBackend(config, BackendContext(instance_id="one", tier="t"))
    backend.open()
    wrong = []
    if life.store_id not in (None, backend.store_id):
        wrong.append("the store has another name")
    files = list((base / "one" / "frames").glob("*/*"))
    if backend.usage() != (sum(file.stat().st_size for file in files), len(files)):
        wrong.append("what is accounted for is not what is there")
    if list((base / "one" / "aside").iterdir()):
        wrong.append("what was not finished is still there")
    check = FrameCheck(SYSTEM, direct=False)
    for number in range(FRAMES):
        key = sample_key(number)
        buffer = aligned_buffer(LONGEST + 4096)
        (nbytes,) = backend.get([key], [buffer], soon())
        version = None if nbytes is None else version_of(number, bytes(buffer[:nbytes]))
        whole = version is not None
        if whole and life.versions.get(number, version) != version:
            wrong.append(f"frame {number} is what was there before")
        if number in life.durable and not whole:
            wrong.append(f"frame {number} was durable and is {'damaged' if nbytes else 'gone'}")
        if number in life.gone and nbytes is not None:
            wrong.append(f"frame {number} was removed for good and is there")
        if nbytes is not None and not whole:
            path = base / "one" / "frames" / key.hex()[:2] / key.hex()
            if check.reason(-1, str(path), key) is None:
                wrong.append(f"frame {number} is damaged and verifies")
            # As the tier does, which reads it and finds that out.
            backend.quarantine([key], ["damaged"], soon())
            if mode == "always":
                wrong.append(f"frame {number} is damaged under its name")
    backend.close()
    return wrong


def lives(place: Path, seed: int, ignored: frozenset[tuple[str, int]]) -> list[str]:
    """Live and lose power twice; what was wrong, and from where was synced."""
    rng = random.Random(seed)
    mode = MODES[seed % len(MODES)]
    base = place / f"{seed}"
    base.mkdir()
    for again in range(2):
        # Often within the first calls of a start, of which there are hundreds.
        off = rng.choice((None, rng.randrange(10, 300), rng.randrange(280, 500)))
        calls = LosingCalls(base, off, ignored)
        life = Life(calls, mode, rng)
        with suppress(PowerLoss):
            life.live()
        life.stop()
        base = place / f"{seed}-{again}"
        calls.lose_power(base, rng)
        wrong = faults_after(base, life, mode)
        if wrong:
            return [f"seed {seed}, {mode}, life {again}: {fault}" for fault in wrong]
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lives", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 30))
    args = parser.parse_args()
    print(f"seed {args.seed}", file=sys.stderr, flush=True)
    begun = time.monotonic()
    for number in range(args.lives // 2):
        with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
            wrong = lives(Path(name), args.seed + number, frozenset())
        if wrong:
            print("\n".join(wrong), f"again: --seed {args.seed + number} --lives 2", sep="\n")
            return 1
        if number % 100 == 99:
            print(f"{2 * number + 2} lives", file=sys.stderr, flush=True)
    print(f"{args.lives // 2 * 2} losses of power, {time.monotonic() - begun:.0f} s, no fault")
    return 0


if __name__ == "__main__":
    sys.exit(main())
