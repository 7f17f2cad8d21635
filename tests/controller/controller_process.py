"""The controller as a process of its own, and a client for it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx

from tests.controller.engine_peer import PATIENCE_SECONDS, EnginePeer

COMMAND = [sys.executable, "-c", "from lmcache_core.cli.controller import main; main()"]
ROOT = Path(__file__).parents[2]
STARTED = re.compile(r"'controller.started' host='(.*?)' port=(\d+) monitor='(.*?)'")


def clean_environment() -> dict[str, str]:
    """The environment without settings of the project's, and without a ledger in the home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LMCACHE_")}
    return {**kept, "LMCACHE_CONTROLLER_LEDGER": "none"}


class ControllerProcess:
    """Starts on free ports, can be killed, frozen and started again on the same ones.

    Its ledger lies beside its log, unless a flag names another.
    """

    def __init__(
        self,
        log: Path,
        *flags: str,
        environ: Mapping[str, str] = {},
        command: Sequence[str] = COMMAND,
        headers: Mapping[str, str] = {},
    ) -> None:
        self.log = log
        self.command = command
        self.headers = headers
        self.flags: Sequence[str] = flags
        self.ledger = log.with_name("pins.sqlite")
        ledger = {"LMCACHE_CONTROLLER_LEDGER": str(self.ledger)}
        self.environ = {**clean_environment(), **ledger, **environ}
        self._port = self._monitor_port = 0
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    *self.command,
                    "--port",
                    str(self._port),
                    "--monitor-port",
                    str(self._monitor_port),
                    *self.flags,
                ],
                stderr=log,
                stdout=log,
                env=self.environ,
                cwd=ROOT,
            )
        try:
            self._wait_until_started()
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def _wait_until_started(self) -> None:
        deadline = time.monotonic() + 30
        while (found := STARTED.search(self.log.read_text())) is None:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(self.log.read_text())
            time.sleep(0.01)
        self._port = int(found[2])
        self._monitor_port = int(found[3].rpartition(":")[2])
        self.monitor = f"tcp://127.0.0.1:{self._monitor_port}"
        self.url = f"http://127.0.0.1:{self._port}"
        self.client = httpx.Client(base_url=self.url, timeout=30, headers=self.headers)
        self.client.get("/healthz").raise_for_status()

    def stop(self) -> int:
        """Ask it to end; return its exit status."""
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        try:
            return self.process.wait(PATIENCE_SECONDS)
        finally:
            self.process.kill()
            self.process.wait()

    def restart(self) -> None:
        """Kill it and start another over what it has left."""
        self.kill()
        self.start()

    def kill(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    def peer(self, instance_id: str = "peer", **options: Any) -> EnginePeer:
        return EnginePeer(self.monitor, instance_id, **options)

    def instance(self, instance_id: str) -> dict[str, Any]:
        answer = self.client.get(f"/v1/instances/{instance_id}")
        found: dict[str, Any] = answer.json()
        return found

    def state(self, instance_id: str) -> str | None:
        return self.instance(instance_id).get("state")

    def metric(self, name: str, **labels: str) -> float:
        """One sample of /metrics."""
        wanted = ",".join(f'{key}="{value}"' for key, value in labels.items())
        wanted = f"{name}{{{wanted}}}" if labels else name
        for line in self.client.get("/metrics").text.splitlines():
            if line.rpartition(" ")[0] == wanted:
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"no metric {wanted}")
