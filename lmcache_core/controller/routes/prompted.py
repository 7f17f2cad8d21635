"""What a request is about: tokens, or a prompt or chat messages that the server tokenises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta

from lmcache_core.api.deadline import Deadline
from lmcache_core.controller.engine_record import EngineRecord
from lmcache_core.controller.failures import FieldError
from lmcache_core.controller.plane import ControlPlane
from lmcache_core.controller.routes import fields
from lmcache_core.controller.routes.scoped import Scoped
from lmcache_core.keys import tokens_to_bytes

Prompt = Annotated[
    str, Meta(min_length=1, description="Text, tokenised by the server as a completion's prompt.")
]

Messages = Annotated[
    list[dict[str, Any]],
    Meta(
        min_length=1,
        description="Chat messages, tokenised by the server without the answer's opening.",
    ),
]


class Prompted(Scoped, frozen=True, kw_only=True):
    """One of tokens, prompt and messages."""

    tokens: fields.Tokens | None = None
    prompt: Prompt | None = None
    messages: Messages | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it names none of them."""
        return self.tokens is None and self.prompt is None and self.messages is None


async def tokens_of(
    plane: ControlPlane, data: Prompted, engines: Sequence[EngineRecord], deadline: Deadline
) -> bytes:
    """The packed tokens of a request.

    Args:
        plane: Asks a server, where that is needed.
        data: The request.
        engines: Whose servers may be asked.
        deadline: When it has to be answered.

    Raises:
        FieldError: None or several are given, or nobody can tokenise it.
        TokenizerError: The server cannot be asked.
        DeadlineExceededError: It does not answer in time.
    """
    given = {"tokens": data.tokens, "prompt": data.prompt, "messages": data.messages}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise FieldError(f"tokens: give one of tokens, prompt and messages, not {found}")
    tokens = data.tokens
    if tokens is None:
        tokens = await plane.tokenizer.tokens(engines, given, deadline)
        if not tokens:
            raise FieldError(f"{next(iter(given))}: it has no tokens")
    return tokens_to_bytes(tokens)
