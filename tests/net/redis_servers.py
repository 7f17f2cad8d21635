"""Real Redis servers on free ports, alone or as a cluster, and what befalls them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Self

import pytest

from tests.net.ports import free_port

PATIENCE_SECONDS = 30.0
SLOTS = 16384

BINARY = shutil.which("redis-server") or shutil.which("valkey-server")


def need_redis() -> str:
    """The program of a server; skips where there is none, unless there has to be one."""
    if BINARY is None:
        sentence = "neither redis-server nor valkey-server is on PATH; see tools/install_redis.py"
        if os.environ.get("REQUIRE_REDIS") == "1":
            pytest.fail(f"REQUIRE_REDIS=1 and {sentence}")
        pytest.skip(sentence)
    return BINARY


class RedisServer:
    """One server in a process of its own, with nothing on a disk.

    Args:
        folder: Where it runs.
        options: For its command line, each ``--name`` followed by its values.
        tls: Folder with ``ca.pem``, ``server.pem`` and ``server.key``; then
            it speaks nothing but TLS.
        password: What it asks for, or None.

    Attributes:
        port: Where it listens, on 127.0.0.1, also after a restart.
        identity: Certificate and key that plain clients show, by the
            client library's names; none by default.
    """

    def __init__(
        self, folder: Path, *options: str, tls: Path | None = None, password: str | None = None
    ) -> None:
        self._folder = folder
        self._options = [*options, *(("--requirepass", password) if password else ())]
        self._password = password
        self._tls = tls
        self._binary = need_redis()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.identity: dict[str, str] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"{'rediss' if self._tls else 'redis'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        ports = ["--port", str(self.port)]
        if self._tls is not None:
            ports = [
                *("--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "optional"),
                *("--tls-ca-cert-file", str(self._tls / "ca.pem")),
                *("--tls-cert-file", str(self._tls / "server.pem")),
                *("--tls-key-file", str(self._tls / "server.key")),
            ]
        common = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", "."]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, *ports, *common, *self._options],
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + PATIENCE_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"no redis: {(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.01)

    def kill(self) -> None:
        """Kill it, as ``kill -9`` does; what it had is gone."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.wait(PATIENCE_SECONDS)

    def restart(self) -> None:
        """Kill it and start it anew, empty, on the same port."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Stop it: it accepts connections, as the kernel does, and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def client(self) -> Any:
        """A plain client, for looking and meddling behind our backs; the caller closes it."""
        from redis import Redis

        tls: dict[str, Any] = {}
        if self._tls is not None:
            tls = {"ssl": True, "ssl_ca_certs": str(self._tls / "ca.pem"), **self.identity}
        return Redis(host="127.0.0.1", port=self.port, protocol=2, password=self._password, **tls)

    def run(self, *words: object) -> Any:
        """Run one command."""
        with closing(self.client()) as client:
            return client.execute_command(*words)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                if self._tls is not None:
                    return True
                probe.settimeout(1)
                probe.sendall(b"PING\r\n")
                return probe.recv(5)[:1] in (b"+", b"-")
        except OSError:
            return False


class RedisCluster:
    """A cluster of servers without replicas.

    Args:
        folder: Where they run.
        size: How many.
    """

    def __init__(self, folder: Path, size: int = 3) -> None:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
        self.servers = [
            RedisServer(folder / str(number), *options, "--cluster-port", str(free_port()))
            for number in range(size)
        ]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for server in self.servers:
            self._stack.enter_context(server)
        self._meet()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        return f"redis-cluster://127.0.0.1:{self.servers[0].port}"

    def flush(self) -> None:
        """Empty all of them."""
        for server in self.servers:
            server.run("FLUSHALL")

    def owner(self, name: bytes) -> RedisServer:
        """The server that has a key's slot, as the first one says."""
        from redis.crc import key_slot

        return self.servers[key_slot(name) * len(self.servers) // SLOTS]

    def _meet(self) -> None:
        for number, server in enumerate(self.servers):
            slots = [s for s in range(SLOTS) if s * len(self.servers) // SLOTS == number]
            server.run("CLUSTER", "ADDSLOTS", *slots)
            server.run("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        first = self.servers[0]
        for server in self.servers[1:]:
            bus = server._options[server._options.index("--cluster-port") + 1]
            first.run("CLUSTER", "MEET", "127.0.0.1", server.port, bus)
        self.wait()

    def wait(self) -> None:
        """Wait until all of them agree that they are a cluster."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not all(self._whole(server) for server in self.servers):
            if time.monotonic() > end:
                pytest.fail("the servers did not become a cluster")
            time.sleep(0.05)

    def _whole(self, server: RedisServer) -> bool:
        info = str(server.run("CLUSTER", "INFO"))
        return "cluster_state:ok" in info or "'cluster_state': 'ok'" in info
