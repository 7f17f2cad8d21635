"""How long ``POST /pin`` takes in a durable tier, beside the ledger's commits and the raw device.

    python benchmarks/pin_durable.py [--folder PATH] [--rounds 5] [--seconds 1] [--json]

A real controller with its SQLite ledger, and a real engine with host memory over
``LocalDiskBackend`` with ``durability: none``, both on the disk of ``--folder``; prompts of
8 chunks of 32 MiB, those of ``benchmarks/disk.py``. In turns:

* a pin of a prompt that is synced already, again and again by one client: its
  record is all there is to sync. A bare commit of the ledger, of as many bytes
  and in a file beside it, is timed in the same turns, and how many a pin makes
  is counted;
* a pin of a prompt that was stored just now, so that its chunks have yet to be written
  and synced;
* a pin of one that was written just now, so that its files have yet to be synced;
* the same where another program has just written 512 MiB and synced nothing;
* as many bytes as raw files with direct I/O, each synced.

The client shares the machine with both: read the differences and the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from asyncio import run
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from controller import Served, commit_seconds, commits_of, free_port, http, load, serve
from disk import (
    BLOCK_BYTES,
    BLOCK_TOKENS,
    CHUNK_BYTES,
    CHUNK_TOKENS,
    CHUNKS,
    DISK,
    MEMORY,
    PATIENCE_SECONDS,
    Raw,
)

from lmcache_core.api import BackendContext, MemoryBackendSpec
from lmcache_core.api.connector import KVGroup
from lmcache_core.config import EngineConfig, TierConfig
from lmcache_core.engine import start
from lmcache_core.keys import EMPTY_SCOPE, Namespace
from lmcache_core.memory import HostRegion
from lmcache_core.plugins import PluginRegistry

INSTANCE = "bench"
BESIDE_MIB = 512
NBYTES = CHUNKS * CHUNK_BYTES


def prompt(number: int) -> list[int]:
    rng = random.Random(number)
    return [rng.randrange(128_000) for _ in range(CHUNKS * CHUNK_TOKENS)]


def run_engine(address: str, folder: Path, prompts: int) -> None:
    """Be an engine that stores what it is told to, a line for each, until there is no more."""
    registry = PluginRegistry.discover()
    spec = registry.backend(MEMORY)
    assert isinstance(spec, MemoryBackendSpec)
    memory_bytes = 2 * (CHUNKS + 1) * CHUNK_BYTES
    options = {"path": str(folder), "scrub_rate": 0}
    config = EngineConfig(
        # Twice, because pins may take half of it.
        tiers=(TierConfig(MEMORY, memory_bytes), TierConfig(DISK, 3 * prompts * NBYTES, options)),
        staging_bytes=CHUNK_BYTES + 4096,
        storage_timeout_seconds=PATIENCE_SECONDS,
        enable_controller=True,
        controller_url=address,
        instance_id=INSTANCE,
        heartbeat_seconds=1.0,
    )
    noise = os.urandom(1 << 20)
    with ExitStack() as stack:
        context = BackendContext(instance_id=INSTANCE, tier=MEMORY)
        nbytes = memory_bytes + config.staging_bytes
        region = stack.enter_context(HostRegion.create(spec, {"prefault": True}, context, nbytes))
        engine = start(
            config=config,
            namespace=Namespace(model="bench", weights="00"),
            region=region,
            groups=[KVGroup(BLOCK_TOKENS, BLOCK_BYTES)],
            registry=registry,
        )
        stack.callback(engine.close)
        raw = Raw(folder, region.view(0, CHUNK_BYTES + 4096), synced=True)
        tables = [list(range(CHUNKS * CHUNK_TOKENS // BLOCK_TOKENS))]
        for number, line in enumerate(sys.stdin, start=1):
            what, word = line.split()
            if what == "raw":
                print(raw.write(), flush=True)
                raw.read()
                continue
            tokens = prompt(int(word))
            engine.begin("w", tokens, EMPTY_SCOPE)
            job = engine.plan_store("w", len(tokens), tables, final=True)
            assert job is not None
            for copy in job.copies:
                for at in range(copy.offset, copy.offset + CHUNK_BYTES, len(noise)):
                    region.view(at, len(noise))[:] = noise
            written = engine.tiers.storage[0].counters["put_frames"] + CHUNKS
            engine.acknowledge([job.job_id])
            engine.finish("w")
            deadline = time.monotonic() + PATIENCE_SECONDS
            while what == "write" and engine.tiers.storage[0].counters["put_frames"] < written:
                assert time.monotonic() < deadline, "the prompt was not written"
                time.sleep(0.001)
            print(number, flush=True)


class Engine:
    """The engine in a process of its own."""

    def __init__(self, monitor: int, folder: Path, prompts: int) -> None:
        command = [sys.executable, __file__, "--engine", f"tcp://127.0.0.1:{monitor}"]
        self._process = subprocess.Popen(
            [*command, "--folder", str(folder), "--rounds", str(prompts)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, what: str, number: int = 0) -> float:
        """Have it do something, and wait until it has."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{what} {number}\n")
        stdin.flush()
        return float(stdout.readline())

    def close(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE_SECONDS)


def asking(number: int) -> bytes:
    """The request that pins a prompt on the disk."""
    body = {"instance_id": INSTANCE, "location": DISK, "tokens": prompt(number)}
    return http("POST", "/pin", json.dumps(body).encode())


def pin_seconds(control: Served, number: int) -> float:
    """Pin a prompt once; it is all pinned."""
    _, _, body = asking(number).partition(b"\r\n\r\n")
    url = f"http://127.0.0.1:{control.port}/pin"
    request = urllib.request.Request(url, data=body, method="POST")
    began = time.perf_counter()
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        found = json.load(answer)
    elapsed = time.perf_counter() - began
    assert found["num_tokens"] == CHUNKS * CHUNK_TOKENS, found
    return elapsed


def write_beside(folder: Path) -> None:
    """Be another program, which leaves it to the kernel when its bytes are on the disk."""
    noise = os.urandom(1 << 20)
    with (folder / f"another{time.time_ns()}").open("wb", buffering=0) as file:
        for _ in range(BESIDE_MIB):
            file.write(noise)


def measure(seconds: float, rounds: int, folder: Path) -> dict[str, object]:
    prompts = 3 * (rounds + 1) + 1
    monitor = free_port()
    store = folder / "store"
    store.mkdir()
    alone: list[float] = []
    commits: list[float] = []
    steps = (("stored", "store"), ("written", "write"), ("beside", "write"))
    times: dict[str, list[float]] = {**{what: [] for what, _ in steps}, "raw": []}
    with ExitStack() as stack:
        control = serve(folder, monitor)
        stack.callback(control.close)
        engine = Engine(monitor, store, prompts)
        stack.callback(engine.close)
        engine.tell("write")
        request = asking(0)
        deadline = time.monotonic() + 30
        while True:
            (probe,) = run(load(control.port, [request], seconds=0.05))
            if not probe.failures:
                break
            assert time.monotonic() < deadline, probe.body
        assert json.loads(probe.body)["num_tokens"] == CHUNKS * CHUNK_TOKENS, probe.body
        made = 0.0
        for number in range(rounds + 1):
            for left in folder.glob("another*"):
                left.unlink()
            # The device is to have done what the round before has left it, removals above all.
            os.sync()
            before = commits_of(control.port)
            (client,) = run(load(control.port, [request], seconds=seconds))
            assert not client.failures, client.body
            made += commits_of(control.port) - before
            alone += client.seconds
            commits += commit_seconds(folder, seconds / 4)
            row = {}
            for fresh, (what, word) in enumerate(steps, start=len(steps) * number + 1):
                engine.tell(word, fresh)
                if what == "beside":
                    write_beside(folder)
                row[what] = pin_seconds(control, fresh)
            row["raw"] = engine.tell("raw")
            if number:  # the first makes folders and touches memory
                for what, took in row.items():
                    times[what].append(took)
    return figures(alone, commits, made / len(alone), times)


def figures(
    alone: Sequence[float],
    commits: Sequence[float],
    per_pin: float,
    times: dict[str, list[float]],
) -> dict[str, object]:
    """What was found, in milliseconds and as ratios."""
    ordered = sorted(alone)
    commit = statistics.median(commits)
    beside = per_pin * commit
    p50 = statistics.median(ordered)
    middle = {what: statistics.median(took) for what, took in times.items()}
    return {
        "pin_p50_ms": 1e3 * p50,
        "pin_p99_ms": 1e3 * ordered[len(ordered) * 99 // 100],
        "pins": len(ordered),
        "ledger_commits_per_pin": per_pin,
        "ledger_commit_p50_ms": 1e3 * commit,
        "pin_p50_less_commits_ms": 1e3 * (p50 - beside),
        "to_sync_MiB": NBYTES >> 20,
        "raw_synced_ms": 1e3 * middle["raw"],
        "raw_synced_GBps": NBYTES / middle["raw"] / 1e9,
        "pin_of_stored_p50_ms": 1e3 * middle["stored"],
        "pin_of_written_p50_ms": 1e3 * middle["written"],
        "pin_of_written_beside_p50_ms": 1e3 * middle["beside"],
        "stored_over_raw": (middle["stored"] - beside) / middle["raw"],
        "written_over_raw": (middle["written"] - beside) / middle["raw"],
    }


TARGETS = {
    "pin_p50_less_commits_ms": "<= 2",
    "stored_over_raw": "<= 1.2",
    "written_over_raw": "<= 1.2",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="on the disk to measure; a temporary one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of pins in each round")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.engine:
        run_engine(args.engine, args.folder, args.rounds)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        found = measure(args.seconds, args.rounds, Path(name))
    if args.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        shown = f"{value:.3g}" if isinstance(value, float) else value
        print(f"{name:30} {shown:>10}  {TARGETS.get(name, '')}")


if __name__ == "__main__":
    main()
