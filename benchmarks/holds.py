"""The longest holds of the engine's lock while a cache grows, turns over and goes.

    python benchmarks/holds.py [--chunks 100000 1000000] [--policy LRU] [--json]

No page is copied, and no garbage is collected while calls are timed. Each
call of the engine holds its lock nearly from end to end; what is noted is how
long its thread ran, by the processor's clock, so that other processes count
for nothing. ``memory`` is host memory: prompts of 32 chunks are stored until it
is full and half of them pinned, a quarter as many are stored in place of others,
pins are released, and it is cleared in no order.
``store`` is the accounting of a store that has kept as many frames: taken in as at
a start, then all of them turned over.
``yardstick`` is the longest of as many calls that compute the keys of a prompt.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from engine import MEMORY, PROMPT_CHUNKS, Bench

from lmcache_core.api.connector import KVGroup
from lmcache_core.api.pins import PinRequest
from lmcache_core.engine.chunks.geometry import Geometry
from lmcache_core.engine.chunks.residents import Residents
from lmcache_core.engine.control.commands import CLEAR_BATCH
from lmcache_core.engine.storage.frame_book import Facts, FrameBook
from lmcache_core.engine.storage.holdings import Holdings, Known
from lmcache_core.engine.storage.recovery import BATCH_FRAMES
from lmcache_core.keys import EMPTY_SCOPE, KEY_BYTES, KeyChain, tokens_to_bytes
from lmcache_core.plugins import PluginRegistry

FRAME_BYTES = 8192


class Longest:
    """The longest call of each kind.

    Attributes:
        ms: Milliseconds by the kind's name.
    """

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}

    def call(self, kind: str, step: Callable[[], Any]) -> None:
        """Do a step of a kind and note how long this thread ran with it."""
        begin = time.thread_time_ns()
        step()
        ms = (time.thread_time_ns() - begin) / 1e6
        self.ms[kind] = max(ms, self.ms.get(kind, 0.0))


class Memory:
    """An engine that is filled, turned over and emptied."""

    def __init__(self, chunks: int, policy: str, longest: Longest) -> None:
        self._bench = Bench(chunks, policy)
        self._longest = longest

    def run(self) -> None:
        tiers = self._bench.engine.tiers
        prompts = max(1, self._bench.chunks // PROMPT_CHUNKS)
        for number in range(prompts):
            tokens = self._store("memory_grow")
            if number % 2:
                self._pin(str(number), tokens)
        for _ in range(prompts // 4):
            self._store("memory_turn")
        for number in range(1, prompts, 2):
            self._call("memory_unpin", lambda: tiers.pins.unpin(str(number), 1))  # noqa: B023
        keys = list(tiers.keys(MEMORY))
        random.Random(1).shuffle(keys)
        for start in range(0, len(keys), CLEAR_BATCH):
            some = keys[start : start + CLEAR_BATCH]
            self._call("memory_clear", lambda: tiers.drop(MEMORY, some, force=True))  # noqa: B023
        self._bench.close()

    def _store(self, kind: str) -> list[int]:
        """Let a prompt come, be looked up, stored and go."""
        engine = self._bench.engine
        tokens = self._bench.prompt()
        self._longest.call(
            "yardstick", lambda: KeyChain(bytes(32), 256).extend_bytes(tokens_to_bytes(tokens))
        )
        self._call(kind, lambda: engine.begin("new", tokens, EMPTY_SCOPE))
        self._call(kind, lambda: engine.match("new", len(tokens)))
        jobs = []
        self._call(kind, lambda: jobs.append(self._bench.plan("new", tokens)))
        self._call(kind, lambda: engine.acknowledge([job.job_id for job in jobs if job]))
        self._call(kind, lambda: engine.finish("new"))
        return tokens

    def _pin(self, pin_id: str, tokens: list[int]) -> None:
        packed = tokens_to_bytes(tokens)
        request = PinRequest(pin_id=pin_id, version=1, location=MEMORY, tokens=packed)
        self._call("memory_pin", lambda: self._bench.engine.tiers.pins.pin(request))

    def _call(self, kind: str, step: Callable[[], Any]) -> None:
        self._longest.call(kind, step)


def run_store(chunks: int, policy: str, longest: Longest) -> None:
    """Let the accounting of a store take in frames and turn a quarter of them over."""
    spec = PluginRegistry.discover().eviction_policy(policy)
    residents = Residents(0, spec.load()(spec.config()))
    book = FrameBook(Geometry([KVGroup(16, 4096)]), 256, None, residents)
    holdings = Holdings("bench", residents, book, threading.RLock())
    draw = random.Random(2)
    for _ in range(0, chunks, BATCH_FRAMES):
        frames = [(draw.randbytes(KEY_BYTES), FRAME_BYTES) for _ in range(BATCH_FRAMES)]
        longest.call("store_grow", lambda: holdings.take_kept(frames))  # noqa: B023

    def turn() -> None:
        for _ in range(PROMPT_CHUNKS):
            holdings.forget_one()
            holdings.take(Known(draw.randbytes(KEY_BYTES), FRAME_BYTES, Facts(256)))

    for _ in range(0, chunks, PROMPT_CHUNKS):
        longest.call("store_turn", turn)


def measure(chunks: int, policy: str) -> dict[str, float]:
    """All figures for one size."""
    longest = Longest()
    gc.collect()
    gc.disable()
    try:
        Memory(chunks, policy, longest).run()
        run_store(chunks, policy, longest)
    finally:
        gc.enable()
    return {"chunks": chunks, **{f"{kind}_max_ms": ms for kind, ms in longest.ms.items()}}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--policy", default="LRU")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = [measure(chunks, args.policy) for chunks in args.chunks]
    if args.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print("  ".join(f"{name} {value:.4g}" for name, value in row.items()))


if __name__ == "__main__":
    main()
