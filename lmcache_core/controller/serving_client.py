"""Asking the server that an engine serves in, at its ``serving_url``."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

import msgspec

from lmcache_core.api.deadline import Deadline
from lmcache_core.controller.engine_record import EngineRecord
from lmcache_core.controller.failures import ServerFailedError, ServerRefusedError
from lmcache_core.errors import DeadlineExceededError

CONNECT_SECONDS = 5.0
"""How long a connection may take: nothing can cut that short."""

MAX_ANSWER_BYTES = 64 << 20
MAX_REASON_BYTES = 1 << 16
MAX_REASON_LETTERS = 500

REFUSALS = frozenset({400, 413, 422})
"""Statuses of a server that finds the question wrong."""


class _Refusal(msgspec.Struct):
    error: Any = None
    message: Any = None
    detail: Any = None


class ServingClient:
    """Sends JSON to servers, on threads of its own.

    Args:
        at_once: Requests under way; more wait for their turn, within their deadline.
        name: What the threads are called.
    """

    def __init__(self, at_once: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(at_once, name)

    async def post(
        self,
        engine: EngineRecord,
        path: str,
        question: object,
        deadline: Deadline,
        headers: Mapping[str, str] = {},
    ) -> bytes:
        """The body of a server's answer.

        Args:
            engine: Whose server; it has named a ``serving_url``.
            path: What is asked there.
            question: The body, as JSON.
            deadline: When it has to be answered; what is under way then is cut off.
            headers: More headers.

        Raises:
            ServerRefusedError: The server finds the question wrong.
            ServerFailedError: It cannot be asked, or fails.
            DeadlineExceededError: It does not answer in time.
        """
        url = f"{(engine.serving_url or '').rstrip('/')}{path}"
        what = f"{url} of instance {engine.instance_id!r}"
        deadline.check(what)
        exchange = _Exchange(url, what, deadline.remaining_seconds)
        loop = asyncio.get_running_loop()
        body = msgspec.json.encode(question)
        sent = {"Content-Type": "application/json", **headers}
        asked = loop.run_in_executor(self._threads, exchange.run, body, sent)
        try:
            async with asyncio.timeout(deadline.remaining_seconds):
                status, answer = await asked
        except TimeoutError as error:
            if deadline.expired:
                raise DeadlineExceededError(what, deadline.seconds) from error
            reason = f"no connection within {CONNECT_SECONDS:g} s"
            raise ServerFailedError(what, reason) from error
        except (OSError, HTTPException, ValueError) as error:
            raise ServerFailedError(what, str(error) or type(error).__name__) from error
        finally:
            exchange.cut()
        if status in REFUSALS:
            raise ServerRefusedError(what, _reason(answer) or str(status))
        if status >= 300:
            raise ServerFailedError(what, f"{status} {_reason(answer)}".rstrip())
        return answer

    def close(self) -> None:
        """Ask nothing more; who waits is to be cancelled, which cuts off what is under way."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Exchange:
    """One question and its answer, on a connection of its own.

    Raises:
        ServerFailedError: The address is none.
    """

    def __init__(self, url: str, what: str, seconds: float) -> None:
        try:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or parts.hostname is None:
                reason = "its serving_url is no http:// or https:// address"
                raise ServerFailedError(what, reason)
            kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
            connect_seconds = max(0.001, min(seconds, CONNECT_SECONDS))
            self._connection = kind(parts.hostname, parts.port, timeout=connect_seconds)
        except ValueError as error:
            raise ServerFailedError(what, f"its serving_url is no address: {error}") from error
        self._path = parts.path
        self._seconds = seconds
        self._sock: socket.socket | None = None

    def run(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Ask; the status and the body of the answer."""
        with contextlib.closing(self._connection) as connection:
            connection.connect()
            # The connection lets go of it while the answer is still to be read.
            self._sock = connection.sock
            self._sock.settimeout(self._seconds)
            connection.request("POST", self._path, body, dict(headers))
            with contextlib.closing(connection.getresponse()) as answer:
                return answer.status, _read(answer)

    def cut(self) -> None:
        """Let the thread go that reads the answer, however slowly that comes."""
        if self._sock is not None:
            with contextlib.suppress(OSError):  # It has been closed meanwhile.
                self._sock.shutdown(socket.SHUT_RDWR)


def _read(answer: HTTPResponse) -> bytes:
    if answer.status >= 300:
        return answer.read(MAX_REASON_BYTES)
    body = answer.read(MAX_ANSWER_BYTES + 1)
    if len(body) > MAX_ANSWER_BYTES:
        message = f"its answer is longer than {MAX_ANSWER_BYTES} bytes"
        raise ValueError(message)
    return body


def _reason(body: bytes) -> str:
    """What a server says of a request that it refuses."""
    try:
        said = msgspec.json.decode(body, type=_Refusal)
    except msgspec.DecodeError:
        return ""
    inner = said.error.get("message") if isinstance(said.error, dict) else said.error
    words = str(inner or said.message or said.detail or "").split()
    return " ".join(words)[:MAX_REASON_LETTERS]
