"""A TCP proxy on the loopback that does to a connection what networks do."""

from __future__ import annotations

import socket
import struct
import threading
import time
from typing import Self

PIECE_BYTES = 64 << 10
LOOK_SECONDS = 0.05
"""How often a thread looks whether it is to end."""


class Proxy:
    """Hands bytes on between clients and one server, as well as it is told to.

    Faults may be set and taken away while connections are open.

    Args:
        host: The server's.
        port: The server's.

    Attributes:
        port: Where clients connect to, on 127.0.0.1.
        bytes_per_second: How fast the server's bytes are handed on; None for
            as they come.
        cut_after: So many bytes more come from the server, then all
            connections are reset and the fault is over; None for no such end.
        cut_up_after: The same of the clients' bytes.
        cut_each_after: So many bytes come from the server over each
            connection, then that one is reset; None for no such end.
        refuses: Whether new connections are reset at once.
        frozen: While set, nothing is handed on and nothing is closed.
        connections: How many there have been.
        down_bytes: What has come from the server and was handed on.
        turns: How often a client has spoken after the server had, or for the
            first time: the round trips, where there is one connection.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self.bytes_per_second: float | None = None
        self.cut_after: int | None = None
        self.cut_up_after: int | None = None
        self.cut_each_after: int | None = None
        self.refuses = False
        self.frozen = threading.Event()
        self.connections = 0
        self.turns = 0
        self.down_bytes = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(LOOK_SECONDS)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self.reset()
        self._listener.close()
        for thread in self._threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in self._threads)

    def reset(self) -> None:
        """Reset all connections."""
        with self._lock:
            for end in self._open:
                # Closed without a farewell: whoever reads gets an error.
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.close()
            self._open.clear()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            self.connections += 1
            try:
                server = socket.create_connection(self._server, 10)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, server}
            if self.refuses:
                self.reset()
                continue
            talk = _Talk()
            self._start(self._hand_on, client, server, talk, True)
            self._start(self._hand_on, server, client, talk, False)

    def _hand_on(
        self, source: socket.socket, target: socket.socket, talk: _Talk, upwards: bool
    ) -> None:
        try:
            source.settimeout(LOOK_SECONDS)
            while not self._closing.is_set():
                try:
                    piece = source.recv(PIECE_BYTES)
                except TimeoutError:
                    continue
                while self.frozen.is_set() and not self._closing.is_set():
                    time.sleep(LOOK_SECONDS)
                if not piece:
                    break
                if talk.turn(upwards):
                    self.turns += 1
                if upwards:
                    self._up(target, piece)
                elif not self._down(target, self._kept(talk, piece), whole=len(piece)):
                    break
        except OSError:
            pass  # The connection has ended; so does what is handed on.
        for end in (source, target):
            with self._lock:
                self._open.discard(end)
            end.close()

    def _up(self, target: socket.socket, piece: bytes) -> None:
        if self.cut_up_after is None:
            _send(target, piece)
            return
        _send(target, piece[: self.cut_up_after])
        self.cut_up_after -= len(piece)
        if self.cut_up_after <= 0:
            self.cut_up_after = None
            self.reset()

    def _kept(self, talk: _Talk, piece: bytes) -> bytes:
        """What of a piece its connection may still carry."""
        if self.cut_each_after is not None:
            piece = piece[: max(0, self.cut_each_after - talk.down_bytes)]
        talk.down_bytes += len(piece)
        return piece

    def _down(self, target: socket.socket, piece: bytes, *, whole: int) -> bool:
        """Hand on what came from the server; whether the connection is to go on."""
        start = 0
        while start < len(piece):
            rate = self.bytes_per_second
            step = len(piece) if rate is None else max(1, int(rate * LOOK_SECONDS))
            if self.cut_after is not None:
                step = min(step, self.cut_after)
            _send(target, piece[start : start + step])
            start += step
            self.down_bytes += step
            if self.cut_after is not None:
                self.cut_after -= step
                if self.cut_after == 0:
                    self.cut_after = None
                    self.reset()
                    return False
            if rate is not None and self._closing.wait(LOOK_SECONDS):
                return False
        return len(piece) == whole

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()


class _Talk:
    """Who of two spoke last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._client_spoke = False
        self.down_bytes = 0

    def turn(self, upwards: bool) -> bool:
        """Note that one speaks; whether it is the client and the server was before."""
        with self._lock:
            new = upwards and not self._client_spoke
            self._client_spoke = upwards
            return new


def _send(target: socket.socket, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        try:
            view = view[target.send(view) :]
        except TimeoutError:
            continue
