"""The disk tier, beside the raw disk: until a prompt is on it, and cold back from it.

    python benchmarks/disk.py [--folder PATH] [--rounds 6] [--durability none] [--json]

The KV is that of an 8B model in bf16, 32 MiB a chunk, prompts of 8 chunks. A
prompt is stored into host memory and written through; then host memory is
cleared, and a request for it arrives and waits. Both ways frames are summed
and checked, and files are written and read past the page cache. Beside it, in
turn, as many bytes as one file a chunk with direct I/O and nothing else, from and
into the same memory. Unless
`--durability always` is given nothing is synced on either side; then each raw
file is synced, too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from lmcache_core.api import BackendContext, MemoryBackendSpec
from lmcache_core.api.connector import KVGroup
from lmcache_core.config import EngineConfig, TierConfig
from lmcache_core.engine import start
from lmcache_core.keys import EMPTY_SCOPE, Namespace
from lmcache_core.memory import HostRegion
from lmcache_core.plugins import PluginRegistry

BLOCK_TOKENS = 16
BLOCK_BYTES = 2 << 20
CHUNK_TOKENS = 256
CHUNK_BYTES = CHUNK_TOKENS // BLOCK_TOKENS * BLOCK_BYTES
CHUNKS = 8
MEMORY, DISK = "LocalCPUBackend", "LocalDiskBackend"
PATIENCE_SECONDS = 300.0


class Ours:
    """An engine with a memory tier and a disk tier, and no model."""

    def __init__(self, folder: Path, stack: ExitStack, durability: str) -> None:
        registry = PluginRegistry.discover()
        spec = registry.backend(MEMORY)
        assert isinstance(spec, MemoryBackendSpec)
        memory_bytes = 2 * (CHUNKS + 1) * CHUNK_BYTES
        config = EngineConfig(
            tiers=(
                TierConfig(MEMORY, memory_bytes),
                TierConfig(
                    DISK,
                    4 * CHUNKS * CHUNK_BYTES,
                    {"path": str(folder), "durability": durability, "scrub_rate": 0},
                ),
            ),
            staging_bytes=CHUNK_BYTES + 4096,
            promotion_timeout_seconds=PATIENCE_SECONDS,
            storage_timeout_seconds=PATIENCE_SECONDS,
        )
        context = BackendContext(instance_id="bench", tier=MEMORY)
        nbytes = memory_bytes + config.staging_bytes
        options = {"prefault": True}
        self._region = stack.enter_context(HostRegion.create(spec, options, context, nbytes))
        self._engine = start(
            config=config,
            namespace=Namespace(model="bench", weights="00"),
            region=self._region,
            groups=[KVGroup(BLOCK_TOKENS, BLOCK_BYTES)],
            registry=registry,
        )
        stack.callback(self._engine.close)
        self._tables = [list(range(CHUNKS * CHUNK_TOKENS // BLOCK_TOKENS))]
        self._noise = os.urandom(1 << 20)
        self._written = 0

    def idle_memory(self) -> memoryview:
        """Memory of the size of a frame that is in no use between two prompts."""
        return self._region.view(0, CHUNK_BYTES + 4096)

    def write(self, tokens: list[int]) -> float:
        """Store a prompt; seconds from when it is in host memory to when it is on the disk."""
        self._engine.begin("w", tokens, EMPTY_SCOPE)
        job = self._engine.plan_store("w", len(tokens), self._tables, final=True)
        if job is None:
            sys.exit("nothing was stored")
        for copy in job.copies:
            for at in range(copy.offset, copy.offset + CHUNK_BYTES, len(self._noise)):
                self._region.view(at, len(self._noise))[:] = self._noise
        begin = time.perf_counter()
        self._engine.acknowledge([job.job_id])
        wanted = self._written + CHUNKS
        self._wait(lambda: self._frames("put_frames") + self._frames("put_failures") >= wanted)
        elapsed = time.perf_counter() - begin
        self._engine.finish("w")
        self._written += CHUNKS
        if self._frames("put_frames") != self._written:
            sys.exit("not every chunk was written")
        return elapsed

    def read(self, tokens: list[int]) -> float:
        """Ask for a prompt that is on the disk only; seconds until it can be loaded."""
        tiers = self._engine.tiers
        tiers.drop(MEMORY, tiers.keys(MEMORY), force=True)
        begin = time.perf_counter()
        self._engine.begin("r", tokens, EMPTY_SCOPE)
        self._wait(lambda: self._engine.match("r", len(tokens)).ready)
        elapsed = time.perf_counter() - begin
        found = self._engine.match("r", len(tokens)).tokens
        self._engine.finish("r")
        if found != len(tokens):
            sys.exit(f"{found} of {len(tokens)} tokens came back")
        tiers.drop(MEMORY, tiers.keys(MEMORY), force=True)
        tiers.drop(DISK, tiers.keys(DISK), force=True)
        return elapsed

    def _frames(self, counter: str) -> int:
        return self._engine.tiers.storage[0].counters[counter]

    def _wait(self, done: Callable[[], bool]) -> None:
        deadline = time.perf_counter() + PATIENCE_SECONDS
        while not done():
            if time.perf_counter() > deadline:
                sys.exit(f"nothing came in {PATIENCE_SECONDS} s")
            time.sleep(0.001)


class Raw:
    """Files of the size of a frame, written and read with direct I/O.

    Args:
        folder: Where they are.
        buffer: Memory of the region that the engine's slots are in: a device that gets
            pages one by one is slower than one that gets them in long runs.
        synced: Whether each is synced when it is written.
    """

    def __init__(self, folder: Path, buffer: memoryview, *, synced: bool) -> None:
        self._synced = synced
        self._paths = [folder / f"raw{number}" for number in range(CHUNKS)]
        self._buffer = buffer

    def write(self) -> float:
        """Write them all; seconds."""
        begin = time.perf_counter()
        for path in self._paths:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_DIRECT, 0o600)
            self._move(os.pwritev, fd, synced=self._synced)
        return time.perf_counter() - begin

    def read(self) -> float:
        """Read them all and remove them; seconds of the reading."""
        begin = time.perf_counter()
        for path in self._paths:
            self._move(os.preadv, os.open(path, os.O_RDONLY | os.O_DIRECT))
        elapsed = time.perf_counter() - begin
        for path in self._paths:
            path.unlink()
        return elapsed

    def _move(
        self,
        move: Callable[[int, list[memoryview], int], int],
        fd: int,
        *,
        synced: bool = False,
    ) -> None:
        view = self._buffer
        done = 0
        while done < len(view):
            done += move(fd, [view[done:]], done)
        if synced:
            os.fsync(fd)
        os.close(fd)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="on the disk to measure; a temporary one")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--durability", default="none", choices=["none", "interval", "always"])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    times: dict[str, list[float]] = {"write": [], "read": [], "raw_write": [], "raw_read": []}
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(dir=args.folder))
        ours = Ours(Path(name), stack, args.durability)
        raw = Raw(Path(name), ours.idle_memory(), synced=args.durability == "always")
        for number in range(args.rounds + 1):
            rng = random.Random(number)
            tokens = [rng.randrange(128_000) for _ in range(CHUNKS * CHUNK_TOKENS)]
            row = {
                "write": ours.write(tokens),
                "raw_write": raw.write(),
                "read": ours.read(tokens),
                "raw_read": raw.read(),
            }
            if number:  # the first makes folders and touches memory
                for side, seconds in row.items():
                    times[side].append(seconds)
    nbytes = CHUNKS * CHUNK_BYTES
    median = {side: statistics.median(seconds) for side, seconds in times.items()}
    figures = {
        "write_over_raw": median["raw_write"] / median["write"],
        "read_over_raw": median["raw_read"] / median["read"],
        "write_GBps": nbytes / median["write"] / 1e9,
        "read_GBps": nbytes / median["read"] / 1e9,
        "raw_write_GBps": nbytes / median["raw_write"] / 1e9,
        "raw_read_GBps": nbytes / median["raw_read"] / 1e9,
    }
    if args.json:
        print(json.dumps(figures))
        return
    for side, value in figures.items():
        print(f"{side:24} {value:.2f}")


if __name__ == "__main__":
    main()
