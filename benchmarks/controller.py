"""The controller against a Litestar hello world, in one run.

    python benchmarks/controller.py [--seconds 2] [--rounds 5] [--json]

Measured: requests per second of ``GET /healthz`` and of ``POST /pin`` (2,048
tokens, one real engine over real ZeroMQ, pages not copied) beside a hello
world of the same framework and server, in turns; how long a ``/pin`` takes
alone, and whether 64 at once all succeed; start time and resident memory of
both. The ledger is on the disk of the temporary folder: how many commits a
``/pin`` makes is counted, and what one takes is timed in the same run by
writing as much to another ledger. The client is plain asyncio and shares the
machine with the servers: read the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

TOKENS = list(range(2048))
INSTANCE = "bench"
MEMORY = "LocalCPUBackend"

HELLO = """
import sys
import uvicorn
from litestar import Litestar, get

@get("/", sync_to_thread=False)
def hello() -> dict[str, str]:
    return {"status": "ok"}

app = Litestar([hello], logging_config=None, openapi_config=None)
uvicorn.run(app, port=int(sys.argv[1]), log_config=None, access_log=False, lifespan="off")
"""

CONTROLLER = "from lmcache_core.cli.controller import main; main()"


def run_engine(address: str) -> None:
    """Be an engine that has cached the prompt, until killed."""
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
    capacity, staging = 1 << 20, 1 << 18
    config = EngineConfig(
        tiers=(TierConfig(MEMORY, capacity),),
        staging_bytes=staging,
        enable_controller=True,
        controller_url=address,
        instance_id=INSTANCE,
        heartbeat_seconds=1.0,
    )
    context = BackendContext(instance_id=INSTANCE, tier=MEMORY)
    region = HostRegion.create(spec, {}, context, capacity + staging)
    engine = start(
        config=config,
        namespace=Namespace(model="bench", weights="00"),
        region=region,
        groups=[KVGroup(32, 512)],
        registry=registry,
    )
    engine.begin("r", TOKENS, EMPTY_SCOPE)
    job = engine.plan_store("r", len(TOKENS), [list(range(64))], final=True)
    assert job is not None
    engine.acknowledge([job.job_id])
    engine.finish("r")
    signal.pause()


class Client(asyncio.Protocol):
    """One kept-alive connection that sends a request as soon as the last is answered."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.seconds: list[float] = []
        self.failures = 0
        self.body = b""
        self.stopping = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._buffer = b""
        self._began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        if len(body) < length:
            return
        self.seconds.append(time.perf_counter() - self._began)
        self.failures += not head.startswith(b"HTTP/1.1 200")
        self.body, self._buffer = body, b""
        if self.stopping:
            self._transport.close()
        else:
            self._send()

    def connection_lost(self, _error: Exception | None) -> None:
        self.done.set_result(None)

    def _send(self) -> None:
        self._began = time.perf_counter()
        self._transport.write(self.request)  # type: ignore[attr-defined]


async def load(port: int, requests: Sequence[bytes], *, seconds: float) -> list[Client]:
    """Keep a connection for each request busy for a while."""
    loop = asyncio.get_running_loop()
    clients = [
        (await loop.create_connection(lambda r=request: Client(r), "127.0.0.1", port))[1]
        for request in requests
    ]
    await asyncio.sleep(seconds)
    for client in clients:
        client.stopping = True
    await asyncio.gather(*(client.done for client in clients))
    return clients


def rate(port: int, requests: Sequence[bytes], seconds: float) -> float:
    """Requests per second."""
    clients = asyncio.run(load(port, requests, seconds=seconds))
    assert not sum(client.failures for client in clients), clients[0].body
    return sum(len(client.seconds) for client in clients) / seconds


def http(method: str, path: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def commits_of(port: int) -> float:
    """How many commits a controller's ledger has made."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return float(text.partition("\nlmcache_controller_ledger_commit_seconds_count ")[2].split()[0])


def commit_seconds(folder: Path, seconds: float) -> list[float]:
    """What commits take that write what a pin does."""
    from lmcache_core.controller.ledger_file import Change, LedgerFile

    file = LedgerFile.open(folder / "beside.sqlite")
    found: list[float] = []
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        file.write(
            [
                Change("pins", "p", os.urandom(4 * len(TOKENS) + 200)),
                *(Change(table, "p", os.urandom(200)) for table in ("standings", "meta", "jobs")),
            ]
        )
        found.append(time.perf_counter() - began)
    file.close()
    return found


class Served:
    """A server in a process of its own, timed until its first answer."""

    def __init__(self, code: str, path: str, port: int, *flags: str, log: Path) -> None:
        self.port = port
        with log.open("w") as file:
            began = time.perf_counter()
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, *flags], stderr=file, stdout=file
            )
        while not self._answers(path):
            assert self.process.poll() is None, log.read_text()
            time.sleep(0.005)
        self.start_seconds = time.perf_counter() - began

    @property
    def resident_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def _answers(self, path: str) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as sock:
                sock.sendall(http("GET", path))
                return sock.recv(15).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)


def serve(folder: Path, monitor: int) -> Served:
    """A controller with its ledger in a folder."""
    port = free_port()
    flags = (
        *("--port", str(port), "--monitor-port", str(monitor)),
        *("--log-level", "warning", "--ledger", str(folder / f"{port}.sqlite")),
    )
    return Served(CONTROLLER, "/healthz", port, *flags, log=folder / "controller.log")


def measure(seconds: float, rounds: int, folder: Path) -> dict[str, object]:
    def hello() -> Served:
        port = free_port()
        return Served(HELLO, "/", port, str(port), log=folder / "hello.log")

    starts: dict[str, list[float]] = {"hello": [], "controller": []}
    for _ in range(rounds):
        for name, make in (("hello", hello), ("controller", lambda: serve(folder, free_port()))):
            served = make()
            starts[name].append(served.start_seconds)
            served.close()

    monitor = free_port()
    world, control = hello(), serve(folder, monitor)
    engine = subprocess.Popen(
        [sys.executable, __file__, "--engine", f"tcp://127.0.0.1:{monitor}"], env=os.environ
    )
    try:
        body = {"instance_id": INSTANCE, "location": MEMORY, "tokens": TOKENS}
        # Each client has a pin of its own: of one pin changes are made one after another.
        pins = [
            http("POST", "/pin", json.dumps({**body, "owner": f"client {n}"}).encode())
            for n in range(64)
        ]
        deadline = time.monotonic() + 30
        while True:
            (probe,) = asyncio.run(load(control.port, pins[:1], seconds=0.05))
            if not probe.failures and json.loads(probe.body)["num_tokens"] == len(TOKENS):
                break
            assert engine.poll() is None, "the engine has ended"
            assert time.monotonic() < deadline, probe.body
        idle_mib = control.resident_mib
        rates: dict[str, list[float]] = {"hello": [], "healthz": [], "pin": []}
        for _ in range(rounds):
            rates["hello"].append(rate(world.port, [http("GET", "/")] * 16, seconds))
            rates["healthz"].append(rate(control.port, [http("GET", "/healthz")] * 16, seconds))
            rates["pin"].append(rate(control.port, pins[:16], seconds))
        alone: list[float] = []
        commits: list[float] = []
        before = commits_of(control.port)
        for _ in range(rounds):
            # In turns: what else the disk does meets both.
            (client,) = asyncio.run(load(control.port, pins[:1], seconds=seconds))
            alone += client.seconds
            commits += commit_seconds(folder, seconds / 4)
        per_pin = (commits_of(control.port) - before) / len(alone)
        before = commits_of(control.port)
        crowd = asyncio.run(load(control.port, pins, seconds=seconds))
        crowd_pins = sum(len(client.seconds) for client in crowd)
        per_crowd_pin = (commits_of(control.port) - before) / crowd_pins
        milliseconds = sorted(1000 * s for s in alone)
        pin_p50 = milliseconds[len(milliseconds) // 2]
        commit_p50 = 1000 * statistics.median(commits)
        middle = {name: statistics.median(values) for name, values in rates.items()}
        return {
            "hello_per_second": round(middle["hello"]),
            "healthz_per_second": round(middle["healthz"]),
            "healthz_to_hello": round(middle["healthz"] / middle["hello"], 3),
            "pin_per_second": round(middle["pin"]),
            "pin_to_hello": round(middle["pin"] / middle["hello"], 3),
            "pin_p50_ms": round(pin_p50, 2),
            "ledger_commits_per_pin": round(per_pin, 2),
            "ledger_commit_p50_ms": round(commit_p50, 2),
            "pin_p50_less_commits_ms": round(pin_p50 - per_pin * commit_p50, 2),
            "pin_p99_ms": round(milliseconds[len(milliseconds) * 99 // 100], 2),
            "pin_64_at_once": crowd_pins,
            "ledger_commits_per_pin_of_64": round(per_crowd_pin, 2),
            "pin_64_at_once_failures": sum(client.failures for client in crowd),
            "start_seconds": round(statistics.median(starts["controller"]), 2),
            "start_to_hello": round(
                statistics.median(starts["controller"]) / statistics.median(starts["hello"]), 2
            ),
            "resident_mib": round(idle_mib, 1),
            "resident_mib_after_load": round(control.resident_mib, 1),
            "hello_resident_mib": round(world.resident_mib, 1),
        }
    finally:
        engine.kill()
        engine.wait()
        world.close()
        control.close()


TARGETS = {
    "healthz_to_hello": ">= 0.8",
    "pin_p50_less_commits_ms": "<= 2",
    "pin_64_at_once_failures": "== 0",
    "start_seconds": "<= 1.2",
    "resident_mib": "<= 90",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.engine:
        run_engine(arguments.engine)
        return
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments.seconds, arguments.rounds, Path(folder))
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:30} {value!s:>10}  {TARGETS.get(name, '')}")


if __name__ == "__main__":
    main()
