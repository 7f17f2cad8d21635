"""Turning text and chat messages into tokens: the server does it that will compute them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from lmcache_core.api.deadline import Deadline
from lmcache_core.controller.engine_record import EngineRecord
from lmcache_core.controller.failures import (
    FieldError,
    ServerFailedError,
    ServerRefusedError,
    TokenizerError,
)
from lmcache_core.controller.serving_client import ServingClient

AT_ONCE = 8
"""Requests to servers under way; more wait for their turn, within their deadline."""


class _Answer(msgspec.Struct):
    tokens: list[int]


class Tokenizer:
    """Asks ``/tokenize`` at the ``serving_url`` of an instance."""

    def __init__(self) -> None:
        self._servers = ServingClient(AT_ONCE, "lmcache-tokenize")

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
        if engine is None:
            names = ", ".join(repr(e.instance_id) for e in engines)
            why = f"of {names} none has named a serving_url" if names else "no instance is live"
            message = (
                f"{field}: nobody here can tokenise it, because {why}; set serving_url in the "
                "engine's configuration, or give tokens"
            )
            raise FieldError(message)
        if field == "messages":
            # Without the answer's opening it is a prefix of every longer conversation.
            question = {**question, "add_generation_prompt": False}
        try:
            answer = await self._servers.post(engine, "/tokenize", question, deadline)
            return msgspec.json.decode(answer, type=_Answer).tokens
        except ServerRefusedError as error:
            raise FieldError(f"{field}: {error}") from error
        except ServerFailedError as error:
            raise TokenizerError(str(error)) from error
        except msgspec.DecodeError as error:
            message = f"/tokenize of instance {engine.instance_id!r} answers no tokens: {error}"
            raise TokenizerError(message) from error

    def close(self) -> None:
        """Ask nothing more; what is under way ends at its deadline."""
        self._servers.close()
