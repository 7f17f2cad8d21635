"""A start over a folder full of files, and what it does to a thread that serves meanwhile.

    python benchmarks/disk_start.py [--folder PATH] [--keep] [--files 100000] [--rounds 3] [--json]

Files of one byte are made, as names and lengths are all that a start looks at.
Then a storage tier over ``LocalDiskBackend`` is opened, while another thread
does steps, a millisecond of waiting and a third of Python: from the files
alone, and from the snapshot that the last stop has left. Beside it, the index
without the tier: the backend opened and its scan drained, nothing else to do;
what both take in memory; how long the tier runs with the engine's lock held;
and what a put of a frame of 64 KiB and its removal take among so many files.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import statistics
import tempfile
import threading
import time
import tracemalloc
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from lmcache_core.api import (
    BackendContext,
    Deadline,
    KVSpec,
    PutStatus,
    StorageBackend,
    StorageBackendSpec,
)
from lmcache_core.api.connector import KVGroup
from lmcache_core.config import TierRules, plugin_section
from lmcache_core.engine.chunks.geometry import Geometry
from lmcache_core.engine.chunks.residents import Residents
from lmcache_core.engine.frames.decoder import Decoder
from lmcache_core.engine.frames.frame import FrameSeal
from lmcache_core.engine.frames.raw import RawFrames
from lmcache_core.engine.frames.serde_chain import Link
from lmcache_core.engine.frames.serde_shelf import SerdeShelf
from lmcache_core.engine.storage.frame_book import FrameBook
from lmcache_core.engine.storage.host import TierHost
from lmcache_core.engine.storage.tier import StorageTier
from lmcache_core.plugins import PluginRegistry
from lmcache_core.testing.material import aligned_buffer, sample_key

DISK = "LocalDiskBackend"
PATIENCE_SECONDS = 600.0
PUTS = 400


def _none(name: str) -> Link:
    """Make no serde: nothing is read here."""
    raise LookupError(name)


class Steps:
    """A thread that does steps and times them."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._stop = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop = True
        self._thread.join()

    def _run(self) -> None:
        while not self._stop:
            begin = time.perf_counter()
            time.sleep(0.001)
            sum(number for number in range(6000))
            self.seconds.append(time.perf_counter() - begin)


class TimedLock:
    """The engine's lock, which notes how long its holders ran, not how long they waited to."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._lock = threading.RLock()
        self._since = 0.0

    def __enter__(self) -> None:
        self._lock.acquire()
        self._since = time.thread_time()

    def __exit__(self, *_: object) -> None:
        self.seconds.append(time.thread_time() - self._since)
        self._lock.release()


class Start(NamedTuple):
    """One start of a tier.

    Attributes:
        seconds: Until it has taken in all frames.
        processor_seconds: What all threads ran for meanwhile.
        alone: Steps before it.
        beside: Steps during it.
        held: Seconds that each holder of the engine's lock ran with it.
    """

    seconds: float
    processor_seconds: float
    alone: list[float]
    beside: list[float]
    held: list[float]


def fill(backend: StorageBackend, folder: Path, files: int) -> None:
    """Make files with names of frames in the folders that the backend makes."""
    backend.open()
    backend.close()
    (frames,) = folder.glob("*/frames")
    for number in range(files):
        name = hashlib.sha256(str(number).encode()).hexdigest()
        fd = os.open(f"{frames}/{name[:2]}/{name}", os.O_WRONLY | os.O_CREAT, 0o600)
        os.ftruncate(fd, 1)
        os.close(fd)


class Starts:
    """Starts over one folder.

    Args:
        folder: The configured one.
        files: How many are made in it.
    """

    def __init__(self, folder: Path, files: int) -> None:
        self._registry = PluginRegistry.discover()
        spec = self._registry.backend(DISK)
        assert isinstance(spec, StorageBackendSpec)
        self._spec = spec
        self._files = files
        options = {"path": str(folder), "scrub_rate": 0}
        self._config = plugin_section(spec.config, options, DISK)
        if not any(folder.iterdir()):
            fill(self._make(), folder, files)
        (frames,) = folder.glob("*/frames")
        self._snapshot = frames.with_name("index")
        time.sleep(0.2)  # A folder that has changed just now is listed again.

    def without_snapshot(self) -> None:
        """Have the next start list all files."""
        self._snapshot.unlink(missing_ok=True)

    def index(self) -> tuple[float, float]:
        """Seconds until the backend has told all frames, and those of the processor."""
        backend = self._make()
        begin, processor = time.perf_counter(), time.process_time()
        backend.open()
        told = sum(1 for _ in backend.scan())
        elapsed, processor = time.perf_counter() - begin, time.process_time() - processor
        assert told == self._files
        backend.close()
        return elapsed, processor

    def memory(self) -> int:
        """Bytes that the backend holds for its index, keys included."""
        backend = self._make()
        backend.open()
        tracemalloc.start()
        for _ in backend.scan():
            pass
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        backend.close()
        return held

    def put(self) -> list[float]:
        """Seconds of each of some puts of a small frame, and of its removal."""
        backend = self._make()
        backend.open()
        for _ in backend.scan():
            pass
        frame, taken = aligned_buffer(65_536), []
        for number in range(PUTS):
            key, deadline = sample_key(number), Deadline(30)
            begin = time.perf_counter()
            (status,) = backend.put([key], [frame], deadline)
            backend.remove([key], deadline)
            taken.append(time.perf_counter() - begin)
            assert status is PutStatus.STORED
        backend.close()
        return taken

    def tier_memory(self) -> int:
        """Bytes that a tier and its backend hold for all frames, keys included."""
        tier = self._make_tier(TimedLock())
        tracemalloc.start()
        self._take_in(tier)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        tier.close()
        return held

    def tier(self) -> Start:
        """Start a tier beside a thread that does steps."""
        lock = TimedLock()
        tier = self._make_tier(lock)
        steps = Steps()
        time.sleep(1)
        before, began = len(steps.seconds), time.perf_counter()
        processor = time.process_time()
        self._take_in(tier)
        elapsed = time.perf_counter() - began
        processor = time.process_time() - processor
        steps.stop()
        held = list(lock.seconds)
        assert tier.counters["recovered_frames"] == self._files
        tier.close()
        return Start(elapsed, processor, steps.seconds[:before], steps.seconds[before:], held)

    def _take_in(self, tier: StorageTier) -> None:
        tier.open(
            on_admitted=lambda _: None,
            on_evicted=lambda *_: None,
            on_evicting=lambda _: None,
        )
        tier._recovery.over.wait(PATIENCE_SECONDS)

    def _make_tier(self, lock: TimedLock) -> StorageTier:
        geometry = Geometry([KVGroup(16, 4096)])
        seal = FrameSeal(bytes(32), geometry)
        policy = self._registry.eviction_policy("LRU")
        residents = Residents(0, policy.load()(policy.config()))
        shelf = SerdeShelf((), _none, KVSpec(dtype="", layout="", groups=()))
        return StorageTier(
            DISK,
            self._make(),
            residents,
            seal=seal,
            form=RawFrames(
                seal, Decoder(seal, shelf, frame_bytes=geometry.frame_bytes(256)), readers=1
            ),
            book=FrameBook(geometry, 256, None, residents),
            lock=lock,
            call_seconds=10,
            capabilities=self._spec.capabilities,
            rules=TierRules(),
            host=TierHost("bench", DISK),
        )

    def _make(self) -> StorageBackend:
        context = BackendContext(instance_id="bench", tier=DISK)
        return self._spec.load()(self._config, context)


def measure(folder: Path, files: int, rounds: int) -> dict[str, float]:
    starts = Starts(folder, files)
    figures: dict[str, float] = {"files": files}
    figures["index_bytes_per_frame"] = starts.memory() / files
    figures["tier_bytes_per_frame"] = starts.tier_memory() / files
    puts = starts.put()
    figures["put_and_remove_p50_us"] = statistics.median(puts) * 1e6
    figures["put_and_remove_p10_us"] = statistics.quantiles(puts, n=10)[0] * 1e6
    time.sleep(0.2)
    starts.index()  # Leaves a snapshot of what the puts have changed.
    for source in ("files", "snapshot"):
        begun, index = [], []
        for _ in range(rounds):
            if source == "files":
                starts.without_snapshot()
            index.append(starts.index())
            if source == "files":
                starts.without_snapshot()
            begun.append(starts.tier())
        alone, beside, held = (
            list(chain.from_iterable(lists))
            for lists in zip(*(start[2:] for start in begun), strict=True)
        )
        seconds, processor = map(statistics.median, zip(*index, strict=True))
        figures |= {
            f"{source}_index_seconds": seconds,
            f"{source}_index_processor_seconds": processor,
            f"{source}_index_per_second": files / seconds,
            f"{source}_tier_seconds": statistics.median(start.seconds for start in begun),
            f"{source}_tier_processor_seconds": statistics.median(
                start.processor_seconds for start in begun
            ),
            f"{source}_lock_held_p99_ms": statistics.quantiles(held, n=100)[98] * 1e3,
            f"{source}_lock_held_max_ms": max(held) * 1e3,
            f"{source}_step_alone_p50_ms": statistics.median(alone) * 1e3,
            f"{source}_step_alone_p99_ms": statistics.quantiles(alone, n=100)[98] * 1e3,
            f"{source}_step_beside_p50_ms": statistics.median(beside) * 1e3,
            f"{source}_step_beside_p99_ms": statistics.quantiles(beside, n=100)[98] * 1e3,
            f"{source}_step_beside_max_ms": max(beside) * 1e3,
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="on the disk to measure; a temporary one")
    parser.add_argument("--keep", action="store_true", help="use --folder, and leave files there")
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with ExitStack() as stack:
        if args.keep:
            args.folder.mkdir(exist_ok=True)
            folder = args.folder
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=args.folder)))
        figures = measure(folder, args.files, args.rounds)
    if args.json:
        print(json.dumps(figures))
        return
    for what, value in figures.items():
        print(f"{what:32} {value:.2f}")


if __name__ == "__main__":
    main()
