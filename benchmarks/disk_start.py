"""A start over a folder full of files, and what it does to a thread that serves meanwhile.

    python benchmarks/disk_start.py [--folder PATH] [--files 100000] [--json]

Files of one byte are made, as names and lengths are all that a start looks at.
Then a storage tier over ``LocalDiskBackend`` is opened, while another thread
does steps: a millisecond of waiting and a third of Python.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import tempfile
import threading
import time
from pathlib import Path

from lmcache_core.api import BackendContext, StorageBackend, StorageBackendSpec
from lmcache_core.api.connector import KVGroup
from lmcache_core.config import TierRules, plugin_section
from lmcache_core.engine.frame import FrameSeal
from lmcache_core.engine.frame_book import FrameBook
from lmcache_core.engine.geometry import Geometry
from lmcache_core.engine.raw_frames import RawFrames
from lmcache_core.engine.residents import Residents
from lmcache_core.engine.storage_tier import StorageTier
from lmcache_core.engine.tier_host import TierHost
from lmcache_core.plugins import PluginRegistry

DISK = "LocalDiskBackend"
PATIENCE_SECONDS = 600.0


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


def fill(backend: StorageBackend, folder: Path, files: int) -> None:
    """Make files with names of frames in the folders that the backend makes."""
    backend.open()
    backend.close()
    (frames,) = folder.glob("*/frames")
    for number in range(files):
        name = hashlib.sha256(str(number).encode()).hexdigest()
        (frames / name[:2] / name).write_bytes(b"x")


def measure(folder: Path, files: int, rounds: int) -> dict[str, float]:
    registry = PluginRegistry.discover()
    spec = registry.backend(DISK)
    assert isinstance(spec, StorageBackendSpec)
    config = plugin_section(spec.config, {"path": str(folder)}, DISK)

    def make() -> StorageBackend:
        return spec.load()(config, BackendContext(instance_id="bench", tier=DISK))

    fill(make(), folder, files)
    policy = registry.eviction_policy("LRU")
    taken, alone, beside = [], [], []
    for _ in range(rounds):
        geometry = Geometry([KVGroup(16, 4096)])
        seal = FrameSeal(bytes(32), geometry)
        residents = Residents(0, policy.load()(policy.config()))
        tier = StorageTier(
            DISK,
            make(),
            residents,
            seal=seal,
            form=RawFrames(seal),
            book=FrameBook(geometry, 256, None, residents),
            lock=threading.RLock(),
            call_seconds=10,
            capabilities=spec.capabilities,
            rules=TierRules(),
            host=TierHost("bench", DISK),
        )
        steps = Steps()
        time.sleep(1)
        alone += steps.seconds
        before, begin = len(steps.seconds), time.perf_counter()
        tier.open(
            on_admitted=lambda _: None,
            on_evicted=lambda *_: None,
            on_evicting=lambda _: None,
        )
        tier._recovery.over.wait(PATIENCE_SECONDS)
        taken.append(time.perf_counter() - begin)
        beside += steps.seconds[before:]
        steps.stop()
        assert tier.counters["recovered_frames"] == files
        tier.close()
    return {
        "files": files,
        "seconds": statistics.median(taken),
        "files_per_second": files / statistics.median(taken),
        "step_alone_p50_ms": statistics.median(alone) * 1e3,
        "step_alone_p99_ms": statistics.quantiles(alone, n=100)[98] * 1e3,
        "step_beside_p50_ms": statistics.median(beside) * 1e3,
        "step_beside_p99_ms": statistics.quantiles(beside, n=100)[98] * 1e3,
        "step_beside_max_ms": max(beside) * 1e3,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="on the disk to measure; a temporary one")
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        figures = measure(Path(name), args.files, args.rounds)
    if args.json:
        print(json.dumps(figures))
        return
    for what, value in figures.items():
        print(f"{what:24} {value:.2f}")


if __name__ == "__main__":
    main()
