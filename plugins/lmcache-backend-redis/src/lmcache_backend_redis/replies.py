"""What a server sends, read from its socket; large values straight into their buffers."""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence
from typing import Any, NamedTuple

from redis._parsers import BaseParser
from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

from lmcache_core.api import Deadline
from lmcache_core.errors import DeadlineExceededError

INBOX_BYTES = 8192
"""Read ahead of what is asked for: lines are short, and what it takes of a value is copied."""

LONGEST_VALUE_BYTES = 1 << 20
"""Of a value that has no buffer to go to; we ask for none that is longer."""


class Refusal(NamedTuple):
    """An error that a server answered with.

    Attributes:
        text: What it said, its code first, for example ``OOM command not allowed``.
    """

    text: str

    @property
    def code(self) -> str:
        """The first word."""
        return self.text.partition(" ")[0]


Reply = int | bytes | list["Reply"] | Refusal | None
"""A number, a line or value, several of these, an error, or nothing."""


class ReplyReader(BaseParser):
    """Reads RESP2 from one socket, within a deadline.

    The client library reads what it asks for while it connects through the
    methods it knows from its own parsers. Its parsers gather a value, of
    however many bytes, in memory of their own, and copy it out twice.

    Attributes:
        deadline: Of whatever is read now.
    """

    def __init__(self) -> None:
        self.deadline = Deadline(0.0)
        self._socket: socket.socket | None = None
        self._inbox = memoryview(bytearray(INBOX_BYTES))
        self._start = self._stop = 0

    @property
    def socket(self) -> socket.socket:
        """The socket.

        Raises:
            ConnectionError: There is none.
        """
        if self._socket is None:
            raise ConnectionError("there is no connection")
        return self._socket

    # What the client library calls.

    def on_connect(self, connection: AbstractConnection) -> None:
        """Read from here on from a new connection."""
        self._socket = connection._sock  # noqa: SLF001 - how its own parsers get it
        self._start = self._stop = 0

    def on_disconnect(self) -> None:
        """Forget the connection."""
        self._socket = None

    def can_read(self, timeout: float = 0) -> bool:
        """Whether something has come that nobody has read, the end included."""
        if self._stop > self._start:
            return True
        # Not select, which takes no descriptor above 1023.
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def read_response(self, disable_decoding: bool = False, **_: Any) -> Any:  # noqa: ANN401, FBT002
        """Read a reply as the client library expects it."""
        del disable_decoding
        reply = self.read()
        if not isinstance(reply, Refusal):
            return reply
        error = self.parse_error(reply.text)  # type: ignore[no-untyped-call]
        if isinstance(error, RedisConnectionError):
            raise error
        return error

    # What we call.

    def read(self, buffers: Sequence[memoryview] | None = None) -> Reply:
        """Read a reply.

        Args:
            buffers: Where a value goes, one after the other; the reply is
                its length then.

        Raises:
            DeadlineExceededError: It has not come in time.
            OSError: The connection has ended.
            InvalidResponse: It is no RESP2, or longer than the buffers.
        """
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b"-":
            return Refusal(rest.decode(errors="replace"))
        number = int(rest) if rest.lstrip(b"-").isdigit() else None
        if kind not in b":$*" or number is None:
            raise InvalidResponse(f"a reply begins with {line[:40]!r}")
        if kind == b":":
            return number
        if number < 0:
            return None
        if kind == b"*":
            return [self.read() for _ in range(number)]
        return self._value(number) if buffers is None else self._value_into(buffers, number)

    def _line(self) -> bytes:
        line = b""
        while True:
            window = bytes(self._inbox[self._start : self._stop])
            end = window.find(b"\n")
            if end >= 0:
                self._start += end + 1
                return (line + window[:end]).removesuffix(b"\r")
            line += window
            if len(line) > INBOX_BYTES:
                raise InvalidResponse("a line does not end")
            self._start, self._stop = 0, self._receive(self._inbox)

    def _value(self, nbytes: int) -> bytes:
        if nbytes > LONGEST_VALUE_BYTES:
            raise InvalidResponse(f"a value of {nbytes} bytes, and none that long was asked for")
        value = bytearray(nbytes)
        self._value_into([memoryview(value)], nbytes)
        return bytes(value)

    def _value_into(self, buffers: Sequence[memoryview], nbytes: int) -> int:
        left = nbytes
        for buffer in buffers:
            part = buffer[:left]
            self._fill(part)
            left -= len(part)
        if left:
            raise InvalidResponse(f"a value of {nbytes} bytes, {left} more than were asked for")
        end = bytearray(2)
        self._fill(memoryview(end))
        if end != b"\r\n":
            raise InvalidResponse(f"a value of {nbytes} bytes goes on behind its end")
        return nbytes

    def _fill(self, view: memoryview) -> None:
        ahead = min(len(view), self._stop - self._start)
        view[:ahead] = self._inbox[self._start : self._start + ahead]
        self._start += ahead
        while ahead < len(view):
            ahead += self._receive(view[ahead:])

    def _receive(self, view: memoryview) -> int:
        connection = self.socket
        connection.settimeout(self._seconds())
        try:
            nbytes = connection.recv_into(view)
        except TimeoutError as error:
            raise DeadlineExceededError("a reply", self.deadline.seconds) from error
        if not nbytes:
            raise ConnectionError("the server has closed the connection")
        return nbytes

    def _seconds(self) -> float:
        self.deadline.check("a reply")
        # 0 would mean not to wait at all, which is another error.
        return max(self.deadline.remaining_seconds, 1e-4)
