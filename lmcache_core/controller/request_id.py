"""A name for each request, which follows it to the engines and through the logs."""

from __future__ import annotations

import re
import time
import uuid
from http import HTTPStatus

from litestar.datastructures import MutableScopeHeaders
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from lmcache_core.log import bound, get_logger

log = get_logger(__name__)

HEADER = "X-Request-ID"
FIELD = "request_id"
"""The field of log lines, here and in the engines."""

# What a caller may name a request: fit for a log line and a header.
_FIT = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class RequestIdGate:
    """Takes a request's ``X-Request-ID`` or gives it one, and answers with it.

    Args:
        app: What serves the request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        request_id = _given(scope) or uuid.uuid4().hex
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message.setdefault("headers", [])
                MutableScopeHeaders(message)[HEADER] = request_id
            await send(message)

        began = time.monotonic()
        with bound(**{FIELD: request_id}):
            try:
                await self._app(scope, receive, answer)
            finally:
                log.debug(
                    "request.served",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    seconds=round(time.monotonic() - began, 6),
                )


def _given(scope: HTTPScope) -> str | None:
    for name, value in scope["headers"]:
        if name.lower() == HEADER.lower().encode() and _FIT.fullmatch(value):
            return value.decode("ascii")
    return None
