"""What a pin takes of the processor in the serving process.

    python benchmarks/pin_cost.py [--pins 100] [--seconds 3] [--rounds 4] [--whole] [--json]

A real engine with a control thread and a ZeroMQ link in this process, on one
core; a scripted controller in another, on the others, which pins prompts of
2,048 cached tokens at a steady rate, renews them as a controller does, without
their tokens unless ``--whole`` is given, and checks each answer. The kernel's
clocks of the control thread and of the link's own thread are read before and
after, with pins and without in turn, so that neither what other processes do
nor ticks and heartbeats are in the figures. Beside them the main thread does
nothing, or steps: some Python, and long calls without Python's lock that read
more memory than the core's caches hold, as a model's kernels do. The second
is what a pin costs a server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
import zlib
from contextlib import ExitStack
from typing import Any

from thread_clocks import ThreadClocks

MEMORY = "LocalCPUBackend"
PROMPTS = 100
TOKENS = 2048
CORES = sorted(os.sched_getaffinity(0))
ENGINE_CORES = CORES[: max(1, len(CORES) // 2)]
OTHER_CORES = CORES[len(CORES) // 2 :]
WORK_BYTES = 64 << 20
CALL_BYTES = 2 << 20
CALLS = 4
"""Of a step; each reads as much as a core's second cache has."""


class Peer:
    """The scripted controller, in a process of its own."""

    def __init__(self, stack: ExitStack, *, whole: bool) -> None:
        self._child = subprocess.Popen(
            [sys.executable, __file__, "peer", *(["whole"] if whole else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.callback(self._child.wait)
        stack.callback(self._child.kill)
        self.address = self._answer()

    def _answer(self) -> Any:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        return json.loads(line) if line else sys.exit("the scripted controller ended")

    def begin(self, pins_per_second: float, seconds: float) -> None:
        """Let it pin for a while."""
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps([pins_per_second, seconds]) + "\n")
        self._child.stdin.flush()

    def end(self) -> list[float]:
        """Wait until it has; seconds that each pin took."""
        took: list[float] = self._answer()
        return took


async def be_peer(*, whole: bool) -> None:
    """Welcome one engine, then pin as standard input asks."""
    from lmcache_core.api.messages import (
        Heartbeat,
        PinCommand,
        Register,
        RenewCommand,
        Reply,
        Welcome,
    )
    from lmcache_core.api.pins import PinRenewal, PinRequest
    from lmcache_core.keys import tokens_to_bytes
    from lmcache_transport_zmq.transport import ZmqTransport

    listener = await ZmqTransport().listen("tcp://127.0.0.1:0")
    print(json.dumps(listener.address), flush=True)
    tokens = [tokens_to_bytes(range(n, n + TOKENS)) for n in range(PROMPTS)]
    replies: asyncio.Queue[Reply] = asyncio.Queue()
    welcomed: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def hear() -> None:
        while True:
            peer, message = await listener.receive()
            if isinstance(message, Register):
                welcome = Welcome(
                    instance_id=message.instance_id,
                    incarnation=message.incarnation,
                    ledger_id="bench",
                    want_snapshot=False,
                )
                await listener.send(peer, welcome)
            elif isinstance(message, Heartbeat) and not welcomed.done():
                welcomed.set_result(peer)
            elif isinstance(message, Reply):
                replies.put_nowait(message)

    hearing = asyncio.create_task(hear())
    peer = await welcomed
    version = 0
    while line := await asyncio.to_thread(sys.stdin.readline):
        rate, seconds = json.loads(line)
        took = []
        start = time.perf_counter()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(start + number / rate - time.perf_counter())
            version += 1
            begin = time.perf_counter()
            asked: dict[str, Any] = {
                "pin_id": f"classic-{version % PROMPTS:032d}",
                "version": version,
                "location": MEMORY,
                "ttl_seconds": 5.0,
            }
            named: dict[str, Any] = {
                "request_id": f"1234567890123456789.{version}",
                "deadline_seconds": 10.0,
                "http_request_id": f"{version:032d}",
            }
            command: PinCommand | RenewCommand
            if whole or version <= PROMPTS:
                pin = PinRequest(tokens=tokens[version % PROMPTS], **asked)
                command = PinCommand(pin=pin, **named)
            else:
                renewal = PinRenewal(since=version - PROMPTS, **asked)
                command = RenewCommand(renewal=renewal, **named)
            await listener.send(peer, command)
            async with asyncio.timeout(10):
                reply = await replies.get()
            if reply.num_tokens != TOKENS:
                sys.exit(f"{reply.num_tokens} of {TOKENS} tokens were pinned: {reply.detail}")
            took.append(time.perf_counter() - begin)
        await asyncio.sleep(start + seconds - time.perf_counter())
        print(json.dumps(took), flush=True)
    hearing.cancel()


def start_engine(address: str, stack: ExitStack) -> None:
    """An engine that has cached the prompts."""
    from lmcache_core.api import BackendContext, MemoryBackendSpec
    from lmcache_core.api.connector import KVGroup
    from lmcache_core.config import EngineConfig, TierConfig
    from lmcache_core.engine import start
    from lmcache_core.keys import EMPTY_SCOPE, Namespace
    from lmcache_core.memory import HostRegion
    from lmcache_core.plugins import PluginRegistry

    registry = PluginRegistry.discover()
    spec = registry.backend(MEMORY)
    assert isinstance(spec, MemoryBackendSpec)
    capacity, staging = 16 << 20, 1 << 20
    config = EngineConfig(
        tiers=(TierConfig(MEMORY, capacity),),
        staging_bytes=staging,
        enable_controller=True,
        controller_url=address,
        heartbeat_seconds=0.2,
    )
    context = BackendContext(instance_id="bench", tier=MEMORY)
    region = HostRegion.create(spec, {}, context, capacity + staging)
    stack.callback(region.close)
    engine = start(
        config=config,
        namespace=Namespace(model="bench", weights="00"),
        region=region,
        groups=[KVGroup(32, 512)],
        registry=registry,
    )
    stack.callback(engine.close)
    for number in range(PROMPTS):
        engine.begin("fill", range(number, number + TOKENS), EMPTY_SCOPE)
        job = engine.plan_store("fill", TOKENS, [list(range(TOKENS // 32))], final=True)
        assert job is not None
        engine.acknowledge([job.job_id])
        engine.finish("fill")


class Steps:
    """What the main thread does meanwhile."""

    def __init__(self) -> None:
        self._memory = memoryview(bytearray(os.urandom(1 << 20)) * (WORK_BYTES >> 20))
        self._at = 0

    def run(self, seconds: float) -> list[float]:
        """Step for a while; seconds of each step."""
        took = []
        end = time.perf_counter() + seconds
        while (begin := time.perf_counter()) < end:
            for _ in range(CALLS):
                self._at = (self._at + CALL_BYTES) % WORK_BYTES
                zlib.crc32(self._memory[self._at : self._at + CALL_BYTES])
                json.loads(json.dumps({str(n): [n, str(n)] for n in range(100)}))
            took.append(time.perf_counter() - begin)
        return took


def quantile(values: list[float], q: float) -> float:
    """The q-quantile of some values."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def main() -> None:
    if sys.argv[1:2] == ["peer"]:
        asyncio.run(be_peer(whole="whole" in sys.argv))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pins", type=float, default=100)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--whole", action="store_true", help="send tokens with each renewal")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    figures: dict[str, float] = {}
    with ExitStack() as stack:
        os.sched_setaffinity(0, OTHER_CORES)
        peer = Peer(stack, whole=args.whole)
        os.sched_setaffinity(0, ENGINE_CORES)
        start_engine(peer.address, stack)
        steps = Steps()
        time.sleep(1)
        threads = ThreadClocks()
        for beside, work in (("alone", time.sleep), ("beside_steps", steps.run)):
            spent: dict[str, list[float]] = {"control": [], "link": []}
            took: list[float] = []
            lasted: dict[float, list[float]] = {0.0: [], args.pins: []}
            for number in range(args.rounds + 1):
                ran: dict[float, dict[str, float]] = {}
                for rate in (0.0, args.pins):
                    peer.begin(rate, args.seconds)
                    before = threads.seconds()
                    steps_took = work(args.seconds)
                    pins_took = peer.end()
                    after = threads.seconds()
                    ran[rate] = {name: after[name] - before[name] for name in after}
                    if number and steps_took:
                        lasted[rate] += steps_took
                if number:  # the first makes the pins, the others renew them
                    took += pins_took
                    for name, seconds in spent.items():
                        seconds.append((ran[args.pins][name] - ran[0.0][name]) / len(pins_took))
            for name, seconds in spent.items():
                figures[f"{beside}_{name}_us"] = statistics.median(seconds) * 1e6
            figures[f"{beside}_us"] = (
                statistics.median([sum(both) for both in zip(*spent.values(), strict=True)]) * 1e6
            )
            figures[f"{beside}_answer_p50_ms"] = quantile(took, 0.5) * 1e3
            if lasted[0.0]:
                for q, name in ((0.5, "p50"), (0.99, "p99")):
                    figures[f"step_{name}_ratio"] = quantile(lasted[args.pins], q) / quantile(
                        lasted[0.0], q
                    )
                figures["step_p50_ms"] = quantile(lasted[0.0], 0.5) * 1e3
    if args.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:28} {value:.3f}")


if __name__ == "__main__":
    main()
