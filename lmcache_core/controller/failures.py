"""Failures that only a controller can have."""

from __future__ import annotations

from lmcache_core.api.messages import Reply
from lmcache_core.errors import ConflictError, LMCacheError


class EngineAwayError(LMCacheError):
    """An engine that is known cannot be reached.

    Attributes:
        instance_id: The engine's.
    """

    def __init__(self, instance_id: str, reason: str) -> None:
        super().__init__(
            f"instance {instance_id!r} is known but {reason}; ask again once GET /v1/instances "
            "shows it live"
        )
        self.instance_id = instance_id


class EngineRefusedError(LMCacheError):
    """An engine answered that it will not or cannot.

    Attributes:
        instance_id: The engine's.
        kind: ``error`` of its reply.
        facts: The numbers of its reply.
    """

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.detail or f"instance {reply.instance_id!r} answered {reply.error}")
        self.instance_id = reply.instance_id
        self.kind = reply.error or "internal"
        self.facts = dict(reply.facts)


class TooManyError(LMCacheError):
    """A bound on concurrent work is reached; asking again later is right."""


class LedgerFullError(LMCacheError):
    """The ledger has no room for another pin.

    Attributes:
        facts: What is used and what the bound is.
    """

    def __init__(self, message: str, **facts: int) -> None:
        super().__init__(message)
        self.facts = facts


class LedgerUnavailableError(LMCacheError):
    """The ledger's file cannot be written, so that nothing can be acknowledged."""


class ServerRefusedError(LMCacheError):
    """The server of an engine finds a question wrong."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} refuses it: {reason}")


class ServerFailedError(LMCacheError):
    """The server of an engine cannot be asked, or fails."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} cannot be asked: {reason}")


class TokenizerError(LMCacheError):
    """The server that would turn text into tokens cannot be asked."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}; give tokens, or ask again")


class NotWarmedError(LMCacheError):
    """A pin is not active that was to be."""


class PreconditionError(ConflictError):
    """``If-Match`` or ``If-None-Match`` does not hold."""


class BodyError(LMCacheError):
    """A request's body is no JSON, is missing, or is not read."""


class BodyTypeError(BodyError):
    """A request's body is in another format than JSON, and says so."""


class FieldError(LMCacheError):
    """A field of a request, or a parameter of its query, is missing, unknown or out of range.

    Attributes:
        available: The names that there are, where one is unknown; else None.
    """

    def __init__(self, message: str, *, available: list[str] | None = None) -> None:
        super().__init__(message)
        self.available = available
