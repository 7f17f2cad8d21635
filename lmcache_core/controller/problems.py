"""Failures as problem documents (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.openapi.datastructures import ResponseSpec

from lmcache_core.controller.failures import (
    BodyError,
    BodyTypeError,
    EngineAwayError,
    EngineRefusedError,
    FieldError,
    LedgerFullError,
    LedgerUnavailableError,
    PreconditionError,
    TokenizerError,
    TooManyError,
)
from lmcache_core.errors import (
    CapacityError,
    ConflictError,
    DeadlineExceededError,
    LMCacheError,
    MessageError,
    UnknownNameError,
)
from lmcache_core.keys import TokenRangeError
from lmcache_core.log import get_logger

log = get_logger(__name__)

MEDIA_TYPE = "application/problem+json"


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong.

    Attributes:
        type: A name of the kind of problem.
        title: The kind in words.
        status: The HTTP status.
        detail: What failed, what is available, what to do.
        available: The names that would have been found.
        facts: The numbers.
    """

    type: str
    title: str
    status: int
    detail: str
    available: list[str] | None = None
    facts: dict[str, int] = {}


_KINDS: dict[type[LMCacheError], tuple[int, str]] = {
    BodyError: (400, "malformed-body"),
    BodyTypeError: (415, "unsupported-media-type"),
    FieldError: (422, "invalid-field"),
    TokenRangeError: (422, "invalid-field"),
    UnknownNameError: (404, "unknown-name"),
    PreconditionError: (412, "precondition-failed"),
    ConflictError: (409, "conflict"),
    TooManyError: (429, "too-many"),
    CapacityError: (507, "no-room"),
    LedgerFullError: (507, "no-room"),
    LedgerUnavailableError: (503, "ledger-unavailable"),
    TokenizerError: (503, "tokenizer-failed"),
    MessageError: (503, "engine-failed"),
    EngineAwayError: (503, "engine-away"),
    DeadlineExceededError: (504, "deadline-exceeded"),
}

_REFUSALS: dict[str, tuple[int, str]] = {
    "invalid": (422, "invalid-field"),
    "capacity": (507, "no-room"),
    "conflict": (409, "conflict"),
    "unknown_location": (404, "unknown-name"),
    "missing": (409, "not-cached"),
    "deadline": (504, "deadline-exceeded"),
    "internal": (503, "engine-failed"),
}

_TITLES = {
    "malformed-body": "The body is not what the route takes",
    "unsupported-media-type": "The body is in another format",
    "invalid-field": "A field of the request is wrong",
    "unknown-name": "There is nothing of that name",
    "precondition-failed": "The precondition does not hold",
    "conflict": "It exists in another form",
    "too-many": "Too much is under way",
    "no-room": "There is no room for it",
    "engine-away": "The engine cannot be asked",
    "tokenizer-failed": "The server that tokenises cannot be asked",
    "ledger-unavailable": "The pin ledger cannot be written",
    "engine-failed": "The engine failed",
    "deadline-exceeded": "The deadline has passed",
    "not-cached": "Something that has to be cached is not",
}

_ROUTING = {
    404: "there is no such route; GET /schema lists those there are",
    405: "the route does not take this method; GET /schema lists those that it takes",
    413: "the body is longer than max_body_bytes of the controller's configuration; send less, or "
    "raise it there",
}

_WRONG_REQUEST = (400, 413, 422)
"""What a body that is not read or too long, and an unknown parameter, are answered with."""


def problem_of(error: Exception) -> Problem:
    """The problem document of a failure."""
    if isinstance(error, EngineRefusedError):
        status, name = _REFUSALS.get(error.kind, _REFUSALS["internal"])
        return _problem(status, name, str(error), facts=error.facts)
    if isinstance(error, LMCacheError):
        for kind in type(error).__mro__:
            if kind in _KINDS:
                status, name = _KINDS[kind]
                return _problem(status, name, str(error), _available(error), _facts(error))
    if isinstance(error, HTTPException):
        return _generic(error.status_code, _ROUTING.get(error.status_code) or error.detail)
    return _generic(500, "the controller failed; its log says how")


def answer_with_problem(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    """Answer a request that failed; Litestar calls this for every exception."""
    problem = problem_of(error)
    if problem.status == 500:
        log.error("request.failed", path=request.url.path, exc_info=error)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if problem.status in (429, 503):
        headers["Retry-After"] = "1"
    return Response(problem, status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)


def _problem(
    status: int,
    name: str,
    detail: str,
    available: list[str] | None = None,
    facts: dict[str, int] | None = None,
) -> Problem:
    return Problem(
        type=f"urn:lmcache:problem:{name}",
        title=_TITLES[name],
        status=status,
        detail=detail,
        available=available,
        facts=facts or {},
    )


def _generic(status: int, detail: str) -> Problem:
    title = HTTPStatus(status).phrase
    return Problem(type="about:blank", title=title, status=status, detail=detail or title)


def _available(error: LMCacheError) -> list[str] | None:
    return error.available if isinstance(error, UnknownNameError | FieldError) else None


def _facts(error: LMCacheError) -> dict[str, int]:
    if isinstance(error, LedgerFullError):
        return error.facts
    if isinstance(error, CapacityError):
        return {
            "asked_bytes": error.asked_bytes,
            "used_bytes": error.used_bytes,
            "limit_bytes": error.limit_bytes,
        }
    return {}


def responses(*statuses: int) -> dict[int, ResponseSpec]:
    """Document the problems that a route may answer with, besides those that every one may."""
    return {
        status: ResponseSpec(Problem, description=HTTPStatus(status).phrase, media_type=MEDIA_TYPE)
        for status in sorted({*_WRONG_REQUEST, *statuses})
    }
