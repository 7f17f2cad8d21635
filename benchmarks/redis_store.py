"""The redis backend beside the clients it could have been written with, and over a frozen server.

    python benchmarks/redis_store.py [--rounds 12] [--json]

Frames of 1, 8 and 32 MiB are put and got, in turn, through the backend and
with redis-py, with hiredis where it is installed and without, at one server
that keeps nothing on a disk. The backend's get fills a buffer of the
caller's; redis-py's makes a string of its own, and is not charged for the copy
out of it. The backend asks whether a long frame is there before it puts it;
redis-py does not. Then 32 keys are looked up. At last the server is stopped
(SIGSTOP) under an engine, and requests go on arriving.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import redis
from redis._parsers import Encoder, _RESP2Parser
from redis.connection import PythonRespSerializer
from redis.utils import HIREDIS_AVAILABLE

from lmcache_core.api import (
    BackendContext,
    Deadline,
    MemoryBackendSpec,
    StorageBackend,
    StorageBackendSpec,
)
from lmcache_core.api.connector import KVGroup
from lmcache_core.config import EngineConfig, TierConfig, plugin_section
from lmcache_core.engine import CacheEngine, start
from lmcache_core.keys import EMPTY_SCOPE, Namespace
from lmcache_core.memory import HostRegion
from lmcache_core.plugins import PluginRegistry

ROOT = Path(__file__).resolve().parents[1]
MIB = 1 << 20
SIZES = (1, 8, 32)
KEYS = 32
KEY = bytes(32)
MEMORY = "LocalCPUBackend"
PROMPT = list(range(8 * 256))
DEADLINE_SECONDS = 0.5


@contextmanager
def server() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server of the system, or one that tools/install_redis.py has fetched."""
    path = f"{os.environ['PATH']}{os.pathsep}{ROOT / 'build' / 'redis' / 'bin'}"
    program = shutil.which("redis-server", path=path) or shutil.which("valkey-server", path=path)
    if program is None:
        sys.exit("no redis-server; run: python tools/install_redis.py build/redis")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None:
                    sys.exit("redis-server did not start")
                time.sleep(0.02)
        yield process, port
    finally:
        process.kill()
        process.wait()


def backend(port: int) -> StorageBackend:
    spec = PluginRegistry.discover().backend("redis")
    assert isinstance(spec, StorageBackendSpec)
    section = plugin_section(spec.config, {"url": f"redis://127.0.0.1:{port}"}, "redis")
    made = spec.load()(section, BackendContext(instance_id="bench", tier="redis"))
    made.open()
    return made


def clients(port: int) -> dict[str, redis.Redis]:
    """The plain clients, each with one connection that is open."""
    encoder = Encoder("utf-8", "strict", decode_responses=False)
    packer = PythonRespSerializer(6000, encoder.encode)
    plain = {"protocol": 2, "parser_class": _RESP2Parser, "command_packer": packer}
    options: dict[str, dict[str, Any]] = {"redis-py": plain}
    if HIREDIS_AVAILABLE:
        options["redis-py with hiredis"] = {"protocol": 2}
    made = {}
    for name, more in options.items():
        made[name] = redis.Redis(
            connection_pool=redis.ConnectionPool(host="127.0.0.1", port=port, **more)
        )
        made[name].ping()
    return made


def frame(nbytes: int) -> memoryview:
    buffer = mmap.mmap(-1, nbytes)
    buffer.write(os.urandom(MIB) * (nbytes // MIB))
    return memoryview(buffer)


def timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def frames(port: int, size: int, rounds: int) -> dict[str, Any]:
    """Put and get frames of one size, side by side."""
    ours, plain = backend(port), clients(port)
    source, target = frame(size * MIB), frame(size * MIB)
    name = f"lmcache:{KEY.hex()}"
    puts: dict[str, list[float]] = {}
    gets: dict[str, list[float]] = {}
    sides: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "ours": (
            lambda: ours.put([KEY], [source], Deadline(60)),
            lambda: ours.get([KEY], [target], Deadline(60)),
        )
    }
    for client_name, client in plain.items():
        sides[client_name] = (
            partial(client.set, name, source, nx=True),
            partial(client.get, name),
        )
    for number in range(2 + rounds * (SIZES[-1] // size)):
        # In another order each time: who comes first finds the caches cold.
        for side in random.Random(number).sample(list(sides), len(sides)):
            put, get = sides[side]
            plain["redis-py"].delete(name)
            seconds = timed(put), timed(get)
            if number >= 2:  # the first touch memory
                puts.setdefault(side, []).append(seconds[0])
                gets.setdefault(side, []).append(seconds[1])
    if target != source:
        sys.exit("other bytes came back")
    ours.close()
    figures: dict[str, Any] = {"MiB": size}
    for what, rows in (("put", puts), ("get", gets)):
        median = {side: statistics.median(seconds) for side, seconds in rows.items()}
        mine = median.pop("ours")
        best = min(median, key=lambda side: median[side])
        figures[f"{what}_over_best_client"] = median[best] / mine
        figures[f"{what}_best_client"] = best
        figures[f"{what}_GBps"] = size * MIB / mine / 1e9
        figures[f"{what}_client_GBps"] = size * MIB / median[best] / 1e9
    return figures


def look_up(port: int, rounds: int) -> dict[str, float]:
    """Look up 32 keys, half of which are there, and beside it one PING."""
    ours, client = backend(port), next(reversed(clients(port).values()))
    keys = [bytes([number]) * 32 for number in range(KEYS)]
    for key in keys[::2]:
        client.set(f"lmcache:{key.hex()}", b"frame")
    times: dict[str, list[float]] = {"ours": [], "client": [], "ping": []}
    for _ in range(rounds * 20):
        times["ours"].append(timed(lambda: ours.stat(keys, Deadline(60))))
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.strlen(f"lmcache:{key.hex()}")
        times["client"].append(timed(pipeline.execute))
        times["ping"].append(timed(client.ping))
    ours.close()
    median = {side: statistics.median(seconds) for side, seconds in times.items()}
    return {
        "look_up_32_ms": median["ours"] * 1e3,
        "look_up_32_client_pipeline_ms": median["client"] * 1e3,
        "one_ping_ms": median["ping"] * 1e3,
    }


def engine(port: int, stack: ExitStack) -> CacheEngine:
    """An engine over the server, with small pages."""
    registry = PluginRegistry.discover()
    spec = registry.backend(MEMORY)
    assert isinstance(spec, MemoryBackendSpec)
    config = EngineConfig(
        tiers=(
            TierConfig(MEMORY, 8 * MIB),
            TierConfig("redis", None, {"url": f"redis://127.0.0.1:{port}"}),
        ),
        staging_bytes=4 * MIB,
        promotion_timeout_seconds=DEADLINE_SECONDS,
        storage_timeout_seconds=DEADLINE_SECONDS,
    )
    context = BackendContext(instance_id="bench", tier=MEMORY)
    region = stack.enter_context(HostRegion.create(spec, {}, context, 12 * MIB))
    made = start(
        config=config,
        namespace=Namespace(model="bench", weights="00"),
        region=region,
        groups=[KVGroup(16, 512)],
        registry=registry,
    )
    stack.callback(made.close)
    return made


def request(made: CacheEngine, number: int) -> tuple[float, int]:
    """Let a request arrive and wait for its match; seconds and tokens of the hit."""
    begin = time.perf_counter()
    made.begin(f"r{number}", PROMPT, EMPTY_SCOPE)
    while not (match := made.match(f"r{number}", len(PROMPT))).ready:
        time.sleep(0.0005)
    elapsed = time.perf_counter() - begin
    made.finish(f"r{number}")
    return elapsed, match.tokens


def frozen() -> dict[str, float]:
    """What requests cost before, while and after a server is stopped."""
    with ExitStack() as stack:
        process, port = stack.enter_context(server())
        made = engine(port, stack)
        well = [request(made, number)[0] for number in range(20)]
        process.send_signal(signal.SIGSTOP)
        first, _ = request(made, 100)
        begin = time.perf_counter()
        waits = []
        while time.perf_counter() - begin < 0.4:  # the breaker's first pause is longer
            waits.append(request(made, 101)[0])
        process.send_signal(signal.SIGCONT)
        begin = time.perf_counter()
        tier = made.tiers.storage[-1]
        while not tier.breaker.healthy:
            request(made, 102)
            time.sleep(0.005)
        back = time.perf_counter() - begin
    return {
        "request_while_well_ms": statistics.median(well) * 1e3,
        "deadline_ms": DEADLINE_SECONDS * 1e3,
        "first_request_frozen_ms": first * 1e3,
        "next_requests_frozen_p50_ms": statistics.median(waits) * 1e3,
        "next_requests_frozen_p99_ms": statistics.quantiles(waits, n=100)[98] * 1e3,
        "until_used_again_s": back,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with server() as (_, port):
        rows: list[dict[str, Any]] = [frames(port, size, args.rounds) for size in SIZES]
        rows.append(look_up(port, args.rounds))
    rows.append(frozen())
    if args.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(
            "  ".join(
                f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()
            )
        )


if __name__ == "__main__":
    main()
