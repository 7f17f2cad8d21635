"""One connection to one server."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from redis.connection import AbstractConnection
from redis.exceptions import TimeoutError as RedisTimeoutError

from lmcache_backend_redis.replies import Reply, ReplyReader
from lmcache_core.api import Deadline
from lmcache_core.errors import DeadlineExceededError

AHEAD_BYTES = 4 << 20
"""Asked of a server and not read yet: enough to keep a network busy, little for it to buffer."""

TOGETHER_BYTES = 16 << 10
"""Shorter pieces are sent in one go with their neighbours; longer ones are never copied."""


class Request(NamedTuple):
    """One command.

    Attributes:
        words: The command and its arguments.
        buffers: Where the value that it is answered with goes, or None.
    """

    words: Sequence[bytes | memoryview]
    buffers: Sequence[memoryview] | None = None

    @property
    def reply_bytes(self) -> int:
        """Most bytes of a value that it is answered with, as far as it matters."""
        return sum(map(len, self.buffers or ()))


Connect = Callable[[ReplyReader, float], AbstractConnection]
"""Makes the client library's connection, not connected yet, from what reads it and seconds."""


class Link:
    """A connection that one thread uses at a time.

    The client library connects, encrypts and logs in. Bytes go and come
    between socket and frame without a copy in between, as it does not do it.

    Args:
        connect: Makes the connection.
        deadline: When it has to be ready.

    Raises:
        DeadlineExceededError: It was not.
        RedisError: The server cannot be reached or does not let us in.
    """

    def __init__(self, connect: Connect, deadline: Deadline) -> None:
        deadline.check("connecting")
        self._replies = ReplyReader()
        self._replies.deadline = deadline
        self._connection = connect(self._replies, deadline.remaining_seconds)
        self._outbox = bytearray()
        self._waiting: deque[Request] = deque()
        self._answers: list[Reply] = []
        try:
            self._connection.connect()  # type: ignore[no-untyped-call]
        except RedisTimeoutError as error:
            self.close()
            raise DeadlineExceededError("connecting", deadline.seconds) from error
        except BaseException:
            self.close()
            raise

    @property
    def stale(self) -> bool:
        """Whether it cannot be used again: the server has ended it, or said what nobody asked."""
        try:
            return self._replies.can_read()
        except (OSError, ValueError):
            return True

    def close(self) -> None:
        """End the connection."""
        self._connection.disconnect()  # type: ignore[no-untyped-call]

    def start(self, requests: Iterable[Request], deadline: Deadline) -> None:
        """Send requests, reading answers only where too much would be under way.

        Raises:
            DeadlineExceededError: It has passed. The link is of no use any more.
            OSError: The connection has ended; likewise.
            RedisError: The server sends what cannot be read; likewise.
        """
        self._replies.deadline = deadline
        self._answers = []
        ahead = 0
        for request in requests:
            while self._waiting and ahead + request.reply_bytes > AHEAD_BYTES:
                ahead -= self._waiting[0].reply_bytes
                self._read()
            self._write(request.words)
            self._waiting.append(request)
            ahead += request.reply_bytes
        self._flush()

    def finish(self) -> list[Reply]:
        """Read what is still to come; return all answers in order.

        Raises:
            DeadlineExceededError: As above.
            OSError: As above.
            RedisError: As above.
        """
        while self._waiting:
            self._read()
        return self._answers

    def _read(self) -> None:
        self._flush()
        self._answers.append(self._replies.read(self._waiting[0].buffers))
        self._waiting.popleft()

    def _write(self, words: Sequence[bytes | memoryview]) -> None:
        self._outbox += b"*%d\r\n" % len(words)
        for word in words:
            self._outbox += b"$%d\r\n" % len(word)
            if len(word) < TOGETHER_BYTES:
                self._outbox += word
            else:
                self._flush()
                self._send(memoryview(word))
            self._outbox += b"\r\n"
        if len(self._outbox) >= TOGETHER_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._outbox:
            self._send(memoryview(self._outbox))
            self._outbox = bytearray()

    def _send(self, view: memoryview) -> None:
        deadline = self._replies.deadline
        sock = self._replies.socket
        while view:
            deadline.check("sending")
            sock.settimeout(max(deadline.remaining_seconds, 1e-4))
            try:
                view = view[sock.send(view) :]
            except (TimeoutError, ssl.SSLWantWriteError) as error:
                raise DeadlineExceededError("sending", deadline.seconds) from error
