"""A wire to a server that can be slow, be cut, or lead nowhere."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self

CHUNK_BYTES = 1 << 14


class TcpProxy:
    """Passes bytes on, as well as its attributes let it.

    Args:
        port: Of the server, on this machine.

    Attributes:
        bytes_per_second: How fast answers come; None for as fast as may be.
        cut_after_bytes: After how many bytes of answers a connection breaks;
            None for never.
        accepts: Whether new connections are let through; else they break.
    """

    def __init__(self, port: int) -> None:
        self.bytes_per_second: float | None = None
        self.cut_after_bytes: int | None = None
        self.accepts = True
        self._upstream = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Break every connection there is."""
        with self._lock:
            for each in self._sockets:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self.accepts:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._upstream), 10)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            with self._lock:
                self._sockets |= {near, far}
            self._start(self._serve, near, far)

    def _serve(self, near: socket.socket, far: socket.socket) -> None:
        asking = threading.Thread(target=self._pass_on, args=(near, far, False), daemon=True)
        asking.start()
        self._pass_on(far, near, True)
        asking.join(10)
        with self._lock:
            self._sockets -= {near, far}
        near.close()
        far.close()

    def _pass_on(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                limit = self.cut_after_bytes if answers else None
                if limit is not None and passed + len(data) > limit:
                    target.sendall(data[: max(0, limit - passed)])
                    break
                if answers and self.bytes_per_second:
                    # The delay is the fault that is tested, not a way to wait for something.
                    self._closed.wait(len(data) / self.bytes_per_second)
                target.sendall(data)
                passed += len(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
