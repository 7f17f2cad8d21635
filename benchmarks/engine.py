"""The engine's own cost per chunk: everything but the copy.

    python benchmarks/engine.py [--chunks 1000 100000 1000000] [--json]

Copies are left out (no page is moved), so what is measured is hashing,
index, slots, leases, eviction order and pins. Half of the cache is pinned
when eviction is timed. Beside each figure stands the same for one SHA-256 of
a chunk's token ids, measured in the same run, as a yardstick of the machine.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import statistics
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

from lmcache_core.api import BackendContext, MemoryBackendSpec
from lmcache_core.api.connector import CopyJob, KVGroup
from lmcache_core.api.pins import PinRequest
from lmcache_core.config import EngineConfig, TierConfig
from lmcache_core.engine import CacheEngine, start
from lmcache_core.keys import EMPTY_SCOPE, Namespace, tokens_to_bytes
from lmcache_core.memory import HostRegion
from lmcache_core.plugins import PluginRegistry

CHUNK_TOKENS = 256
BLOCK_TOKENS = 32
BLOCK_BYTES = 512
SLOT_BYTES = 8192
PROMPT_CHUNKS = 32
MEMORY = "LocalCPUBackend"


class Bench:
    """One engine of a given size over memory that is never touched."""

    def __init__(self, chunks: int, policy: str = "LRU") -> None:
        self.chunks = chunks
        registry = PluginRegistry.discover()
        spec = registry.backend(MEMORY)
        assert isinstance(spec, MemoryBackendSpec)
        config = EngineConfig(
            tiers=(TierConfig(MEMORY, chunks * SLOT_BYTES),),
            staging_bytes=64 * SLOT_BYTES,
            pin_share=1.0,
            cache_policy=policy,
        )
        context = BackendContext(instance_id="bench", tier=MEMORY)
        nbytes = chunks * SLOT_BYTES + config.staging_bytes
        self.region = HostRegion.create(spec, {}, context, nbytes)
        self.engine: CacheEngine = start(
            config=config,
            namespace=Namespace(model="bench", weights="00"),
            region=self.region,
            groups=[KVGroup(BLOCK_TOKENS, BLOCK_BYTES)],
            registry=registry,
        )
        self._next_token = 0
        self._tables = [list(range(PROMPT_CHUNKS * CHUNK_TOKENS // BLOCK_TOKENS))]

    def prompt(self) -> list[int]:
        """A prompt of whole chunks that nobody has asked before."""
        base = self._next_token % 2**31
        self._next_token += PROMPT_CHUNKS * CHUNK_TOKENS
        return list(range(base, base + PROMPT_CHUNKS * CHUNK_TOKENS))

    def plan(self, name: str, tokens: Sequence[int]) -> CopyJob | None:
        """The first half of a store."""
        return self.engine.plan_store(name, len(tokens), self._tables, final=True)

    def store(self, name: str, tokens: Sequence[int]) -> None:
        """Everything a store costs, its copy left out."""
        job = self.plan(name, tokens)
        if job is not None:
            self.engine.acknowledge([job.job_id])

    def close(self) -> None:
        self.engine.close()
        self.region.close()


def per_chunk_us(step: Callable[[], None], repeats: int) -> float:
    """Median microseconds per chunk of a step that handles one prompt."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    return statistics.median(times) / PROMPT_CHUNKS * 1e6


def resident_kib() -> int:
    """Resident memory of this process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def measure(chunks: int, repeats: int) -> dict[str, float]:
    """All figures for one size of the index."""
    bench = Bench(chunks)
    engine = bench.engine
    prompts = max(1, chunks // PROMPT_CHUNKS)
    gc.collect()
    before = resident_kib()
    first: list[list[int]] = []
    fills: list[float] = []
    for number in range(prompts):
        tokens = bench.prompt()
        if number < repeats:
            first.append(tokens)
        engine.begin("fill", tokens, EMPTY_SCOPE)
        fills.append(per_chunk_us(lambda: bench.store("fill", tokens), 1))  # noqa: B023
        engine.finish("fill")
        if number < prompts // 2:
            with engine.tiers.lock:
                engine.tiers.pins.pin(
                    PinRequest(
                        pin_id=str(number),
                        version=1,
                        location=MEMORY,
                        tokens=tokens_to_bytes(tokens),
                    )
                )
    gc.collect()
    memory = (resident_kib() - before) / chunks
    hits = iter(first * (repeats // max(1, len(first)) + 2))
    fresh = [bench.prompt() for _ in range(repeats)]
    names = iter(range(10**9))

    def begin() -> None:
        engine.begin(str(next(names)), next(hits), EMPTY_SCOPE)

    hash_us = per_chunk_us(begin, repeats)
    for number in range(next(names)):
        engine.finish(str(number))

    current = ""

    def lookup() -> None:
        engine.match(current, PROMPT_CHUNKS * CHUNK_TOKENS - 1)

    def load() -> None:
        job = engine.plan_load(current, 0, PROMPT_CHUNKS * CHUNK_TOKENS - 1, bench._tables)
        assert job is not None
        engine.acknowledge([job.job_id])

    lookups, loads = [], []
    for number in range(repeats):
        current = f"hit{number}"
        engine.begin(current, first[number % len(first)], EMPTY_SCOPE)
        lookups.append(per_chunk_us(lookup, 1))
        loads.append(per_chunk_us(load, 1))
        engine.finish(current)

    stores, evictions = [], engine.tiers.memory.evictions
    for number, tokens in enumerate(fresh):
        current = f"new{number}"
        engine.begin(current, tokens, EMPTY_SCOPE)
        stores.append(per_chunk_us(lambda: bench.store(current, fresh[number]), 1))  # noqa: B023
        engine.finish(current)
    evicted = engine.tiers.memory.evictions - evictions
    duplicates = []
    for number, tokens in enumerate(fresh[-max(1, min(8, chunks // (4 * PROMPT_CHUNKS))) :]):
        current = f"dup{number}"
        engine.begin(current, tokens, EMPTY_SCOPE)
        duplicates.append(per_chunk_us(lambda: bench.store(current, tokens), 1))  # noqa: B023
        engine.finish(current)
    bench.close()
    packed = array("I", range(CHUNK_TOKENS)).tobytes()
    yardstick = per_chunk_us(
        lambda: [hashlib.sha256(packed).digest() for _ in range(PROMPT_CHUNKS)] and None, 200
    )
    return {
        "chunks": chunks,
        "sha256_us": yardstick,
        "begin_us": hash_us,
        "lookup_us": statistics.median(lookups),
        "retrieve_us": statistics.median(loads),
        "store_us": statistics.median(fills[-200:]),
        "store_evicting_us": statistics.median(stores),
        "store_duplicate_us": statistics.median(duplicates),
        "evicted_per_store": evicted / len(fresh) / PROMPT_CHUNKS,
        "memory_kib_per_chunk": memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = [measure(chunks, args.repeats) for chunks in args.chunks]
    if args.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print("  ".join(f"{name} {value:.4g}" for name, value in row.items()))


if __name__ == "__main__":
    main()
