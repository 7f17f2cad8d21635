"""Store and retrieve through the engine, beside a plain copy and LMCache.

    python benchmarks/transfer.py [--peer-python PATH] [--tokens 2048] [--json]

The KV is that of an 8B model in bf16: 32 layers, 128 KiB a token, 32 MiB a
chunk of 256 tokens. All sides take turns in one run, LMCache in a child
process of this one (``--peer-python`` names an interpreter that has it);
read the ratios, not the rates. What is timed is a whole store (hash, index,
slots, gather, acknowledge) and a whole retrieve (hash, look-up, scatter,
acknowledge); the bytes that come back are compared.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import statistics
import subprocess
import sys
import time
from ctypes import addressof, c_char, memmove
from pathlib import Path
from typing import Self

from lmcache_core.api import BackendContext, MemoryBackendSpec
from lmcache_core.api.connector import KVGroup
from lmcache_core.config import EngineConfig, TierConfig
from lmcache_core.engine import start
from lmcache_core.keys import EMPTY_SCOPE, Namespace
from lmcache_core.memory import HostRegion, LayerPages, PageMover, PageTable
from lmcache_core.plugins import PluginRegistry

LAYERS = 32
BLOCK_TOKENS = 16
PAGE_BYTES = 64 * 1024
BLOCK_BYTES = LAYERS * PAGE_BYTES
CHUNK_TOKENS = 256
MEMORY = "LocalCPUBackend"


class Pages:
    """A touched page table, layer by layer."""

    def __init__(self, blocks: int, *, fill: bool) -> None:
        self.nbytes = blocks * BLOCK_BYTES
        self.memory = mmap.mmap(-1, self.nbytes)
        self.address = addressof(c_char.from_buffer(self.memory))
        part = os.urandom(1 << 20) if fill else bytes(1 << 20)
        for at in range(0, self.nbytes, len(part)):
            self.memory[at : at + len(part)] = part
        stride = PAGE_BYTES * blocks
        self.table = PageTable(
            [
                LayerPages(self.address + layer * stride, PAGE_BYTES, PAGE_BYTES, blocks)
                for layer in range(LAYERS)
            ]
        )


class Ours:
    """An engine and a worker's mover over real shared memory."""

    def __init__(self, tokens: int, gib: float) -> None:
        registry = PluginRegistry.discover()
        spec = registry.backend(MEMORY)
        assert isinstance(spec, MemoryBackendSpec)
        config = EngineConfig(tiers=(TierConfig(MEMORY, int(gib * 2**30)),), staging_bytes=2**20)
        context = BackendContext(instance_id="bench", tier=MEMORY)
        nbytes = int(gib * 2**30) + config.staging_bytes
        self.region = HostRegion.create(spec, {"prefault": True}, context, nbytes)
        self.engine = start(
            config=config,
            namespace=Namespace(model="bench", weights="00"),
            region=self.region,
            groups=[KVGroup(BLOCK_TOKENS, BLOCK_BYTES)],
            registry=registry,
        )
        self.tokens = tokens
        blocks = tokens // BLOCK_TOKENS
        self.source, self.target = Pages(blocks, fill=True), Pages(blocks, fill=False)
        address, size = self.region.address, self.region.nbytes
        self._out = PageMover(self.source.table, address, size)
        self._in = PageMover(self.target.table, address, size)
        self._tables = [random.Random(0).sample(range(blocks), blocks)]
        self._prompts: dict[str, list[int]] = {}
        self._requests = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._out.close()
        self._in.close()
        self.engine.close()
        self.region.close()

    def store(self, name: str) -> float:
        """Store a prompt; seconds."""
        tokens = self._prompt(name)
        begin = time.perf_counter()
        self.engine.begin("r", tokens, EMPTY_SCOPE)
        job = self.engine.plan_store("r", len(tokens), self._tables, final=True)
        if job is not None:
            self._out.gather(job.copies)
            self.engine.acknowledge([job.job_id])
        self.engine.finish("r")
        return time.perf_counter() - begin

    def retrieve(self, name: str) -> float:
        """Retrieve a prompt; seconds."""
        tokens = self._prompt(name)
        begin = time.perf_counter()
        self.engine.begin("r", tokens, EMPTY_SCOPE)
        found = self.engine.match("r", len(tokens)).tokens
        job = self.engine.plan_load("r", 0, found, self._tables)
        if job is not None:
            self._in.scatter(job.copies)
            self.engine.acknowledge([job.job_id])
        self.engine.finish("r")
        elapsed = time.perf_counter() - begin
        if found != len(tokens) or self.source.memory[:] != self.target.memory[:]:
            sys.exit(f"retrieved {found} of {len(tokens)} tokens, or other bytes")
        return elapsed

    def copy(self) -> float:
        """Copy as many bytes as a store moves, with one memcpy; seconds."""
        begin = time.perf_counter()
        memmove(self.target.address, self.source.address, self.source.nbytes)
        return time.perf_counter() - begin

    def _prompt(self, name: str) -> list[int]:
        if name not in self._prompts:
            rng = random.Random(name)
            self._prompts[name] = [rng.randrange(128_000) for _ in range(self.tokens)]
        return self._prompts[name]


class Peer:
    """LMCache in a child process, one step a line."""

    def __init__(self, python: str, tokens: int, gib: float) -> None:
        script = Path(__file__).with_name("peer_lmcache.py")
        self._child = subprocess.Popen(
            [python, str(script), str(tokens), str(gib)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        while (line := self._read()) != "ready":
            if not line:
                sys.exit("the peer did not start; run its script by hand to see why")

    def step(self, what: str, name: str) -> float:
        """Do one step; seconds."""
        assert self._child.stdin is not None
        self._child.stdin.write(f"{what} {name}\n")
        self._child.stdin.flush()
        return float(self._read())

    def close(self) -> None:
        """End the child."""
        self._child.kill()
        self._child.wait()

    def _read(self) -> str:
        assert self._child.stdout is not None
        return self._child.stdout.readline().strip()


def measure(tokens: int, gib: float, rounds: int, peer: Peer | None) -> dict[str, float]:
    """Median seconds of every side, each round one of each."""
    times: dict[str, list[float]] = {}
    with Ours(tokens, gib) as ours:
        for number in range(rounds + 1):
            name = f"p{number}"
            row = {
                "store": ours.store(name),
                "retrieve": ours.retrieve(name),
                "duplicate": ours.store(name),
                "copy": ours.copy(),
            }
            if peer is not None:
                for step in ("store", "retrieve", "duplicate", "copy"):
                    row[f"lmcache_{step}"] = peer.step(step, name)
            if number:  # the first touches memory for the first time
                for side, seconds in row.items():
                    times.setdefault(side, []).append(seconds)
    return {side: statistics.median(values) for side, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--gib", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    peer = Peer(args.peer_python, args.tokens, args.gib) if args.peer_python else None
    try:
        medians = measure(args.tokens, args.gib, args.rounds, peer)
    finally:
        if peer is not None:
            peer.close()
    nbytes = args.tokens // BLOCK_TOKENS * BLOCK_BYTES
    figures = {
        "store_over_copy": medians["copy"] / medians["store"],
        "retrieve_over_copy": medians["copy"] / medians["retrieve"],
        "duplicate_speedup": medians["store"] / medians["duplicate"],
        "copy_GBps": nbytes / medians["copy"] / 1e9,
    }
    if peer is not None:
        for step in ("store", "retrieve", "duplicate"):
            figures[f"{step}_over_lmcache"] = medians[f"lmcache_{step}"] / medians[step]
    if args.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:24} {value:.2f}")


if __name__ == "__main__":
    main()
