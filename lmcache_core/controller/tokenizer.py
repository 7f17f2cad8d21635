"""Turning text and chat messages into tokens: the server does it that will compute them."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any

import msgspec

from lmcache_core.api.deadline import Deadline
from lmcache_core.controller.engine_record import EngineRecord
from lmcache_core.controller.failures import FieldError, TokenizerError
from lmcache_core.errors import DeadlineExceededError

AT_ONCE = 8
"""Requests to servers under way; more wait for their turn, within their deadline."""

MAX_ANSWER_BYTES = 64 << 20


class _Answer(msgspec.Struct):
    tokens: list[int]


class _Refusal(msgspec.Struct):
    error: Any = None
    message: Any = None
    detail: Any = None


class Tokenizer:
    """Asks ``/tokenize`` at the ``serving_url`` of an instance."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(AT_ONCE, "lmcache-tokenize")

    async def tokens(
        self, engines: Sequence[EngineRecord], question: dict[str, Any], deadline: Deadline
    ) -> list[int]:
        """The tokens of a prompt or of chat messages.

        Args:
            engines: Whose server may be asked; the first that has named one is.
            question: ``prompt`` or ``messages``.
            deadline: When it has to be answered.

        Raises:
            FieldError: No server is known, or it finds the question wrong.
            TokenizerError: The server cannot be asked.
            DeadlineExceededError: It does not answer in time.
        """
        engine = next((e for e in engines if e.serving_url), None)
        (field,) = question
        if engine is None or engine.serving_url is None:
            names = ", ".join(repr(e.instance_id) for e in engines) or "no instance"
            message = (
                f"{field}: {names} has named no serving_url, so that nobody here can tokenise it; "
                "set serving_url in the engine's configuration, or give tokens"
            )
            raise FieldError(message)
        if field == "messages":
            # Without the answer's opening it is a prefix of every longer conversation.
            question = {**question, "add_generation_prompt": False}
        url = f"{engine.serving_url.rstrip('/')}/tokenize"
        what = f"{url} of instance {engine.instance_id!r}"
        deadline.check(what)
        loop = asyncio.get_running_loop()
        asked = loop.run_in_executor(self._threads, _ask, url, what, field, question, deadline)
        try:
            async with asyncio.timeout(deadline.remaining_seconds):
                return await asked
        except TimeoutError as error:
            raise DeadlineExceededError(what, deadline.seconds) from error

    def close(self) -> None:
        """Ask nothing more; what is under way ends at its deadline."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _ask(
    url: str, what: str, field: str, question: dict[str, Any], deadline: Deadline
) -> list[int]:
    body = json.dumps(question).encode()
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 - an engine's own server
        seconds = max(0.001, deadline.remaining_seconds)
        with urllib.request.urlopen(request, timeout=seconds) as answer:  # noqa: S310 - likewise
            text = answer.read(MAX_ANSWER_BYTES)
        return msgspec.json.decode(text, type=_Answer).tokens
    except urllib.error.HTTPError as error:
        with error:
            reason = _reason(error.read(1 << 16)) or error.reason
        if error.code in (400, 422):
            raise FieldError(f"{field}: {what} refuses it: {reason}") from error
        raise TokenizerError(what, f"{error.code} {reason}") from error
    except TimeoutError as error:
        raise DeadlineExceededError(what, deadline.seconds) from error
    except (OSError, HTTPException, ValueError) as error:
        raise TokenizerError(what, str(getattr(error, "reason", error))) from error


def _reason(body: bytes) -> str:
    """What a server says of a request that it refuses."""
    try:
        said = msgspec.json.decode(body, type=_Refusal)
    except msgspec.DecodeError:
        return ""
    inner = said.error.get("message") if isinstance(said.error, dict) else said.error
    return " ".join(str(inner or said.message or said.detail or "").split())[:500]
