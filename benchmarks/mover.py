"""Gather and scatter of pages against a plain copy of the same bytes.

The pages are those of an 8B model in bf16: 32 layers, 64 KiB a page of 16
tokens, so that a chunk of 256 tokens is 32 MiB. Sides take turns in one run;
read the ratios, not the rates.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import time
from collections.abc import Callable
from ctypes import addressof, c_char, memmove

from lmcache_core.api.connector import SlotCopy
from lmcache_core.memory import LayerPages, PageMover, PageTable, native_status

LAYERS = 32
PAGE_BYTES = 64 * 1024
BLOCKS_PER_CHUNK = 16
CHUNK_BYTES = LAYERS * PAGE_BYTES * BLOCKS_PER_CHUNK


class Buffer:
    """Touched, page-aligned memory."""

    def __init__(self, nbytes: int) -> None:
        self.memory = mmap.mmap(-1, nbytes)
        self.address = addressof(c_char.from_buffer(self.memory))
        chunk = os.urandom(1 << 20)
        for at in range(0, nbytes, len(chunk)):
            self.memory[at : at + len(chunk)] = chunk[: min(len(chunk), nbytes - at)]


def copies_of(chunks: int, blocks: int) -> list[SlotCopy]:
    ids = random.Random(0).sample(range(blocks), chunks * BLOCKS_PER_CHUNK)
    return [
        SlotCopy(
            chunk * CHUNK_BYTES,
            BLOCKS_PER_CHUNK,
            0,
            tuple(ids[chunk * BLOCKS_PER_CHUNK : (chunk + 1) * BLOCKS_PER_CHUNK]),
        )
        for chunk in range(chunks)
    ]


def measure(chunks: int, rounds: int) -> dict[str, object]:
    nbytes = chunks * CHUNK_BYTES
    blocks = 2 * chunks * BLOCKS_PER_CHUNK
    pages = Buffer(2 * nbytes)
    region = Buffer(nbytes)
    stride = PAGE_BYTES * blocks
    table = PageTable(
        [
            LayerPages(pages.address + layer * stride, PAGE_BYTES, PAGE_BYTES, blocks)
            for layer in range(LAYERS)
        ]
    )
    copies = copies_of(chunks, blocks)

    def mover(threads: int, *, native: bool) -> PageMover:
        return PageMover(table, region.address, nbytes, threads=threads, native=native)

    sides: dict[str, Callable[[], object]] = {
        "memcpy": lambda: memmove(region.address, pages.address, nbytes),
    }
    plain = mover(1, native=False)
    sides["gather, fallback"] = lambda: plain.gather(copies)
    if native_status().available:
        for threads in sorted({1, min(4, len(os.sched_getaffinity(0)))}):
            fast = mover(threads, native=True)
            sides[f"gather, native, {threads} threads"] = lambda fast=fast: fast.gather(copies)
            sides[f"scatter, native, {threads} threads"] = lambda fast=fast: fast.scatter(copies)
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(rounds):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    return {
        "chunks": chunks,
        "bytes": nbytes,
        "gigabytes_per_second": {name: nbytes / 1e9 / best[name] for name in sides},
        "ratio_to_memcpy": {name: best["memcpy"] / best[name] for name in sides},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, nargs="+", default=[1, 16], help="chunks in one call")
    parser.add_argument("--rounds", type=int, default=15, help="the best of so many counts")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    results = [measure(chunks, arguments.rounds) for chunks in arguments.chunks]
    if arguments.json:
        print(json.dumps({"native": native_status().detail, "results": results}))
        return
    print(f"native library: {native_status().detail}")
    for result in results:
        print(f"{result['chunks']} chunks of 32 MiB in one call")
        rates = result["gigabytes_per_second"]
        for name, ratio in result["ratio_to_memcpy"].items():
            print(f"  {name:28} {rates[name]:6.2f} GB/s   {ratio:5.2f} x memcpy")


if __name__ == "__main__":
    main()
