"""The bearer token."""

from __future__ import annotations

import hashlib
import hmac

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from lmcache_core.controller.problems import MEDIA_TYPE, Problem

OPEN_PATHS = frozenset({"/healthz"})
"""What a load balancer may ask without a token."""


class BearerGate:
    """Lets only those through who bring the token; stands before every route there is.

    Args:
        app: What it guards.
        token: The token.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._digest = _digest(token.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] != ScopeType.HTTP or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        kind, _, token = given.partition(b" ")
        # Digests are compared, so that neither content nor length shows in the time.
        if kind.lower() == b"bearer" and hmac.compare_digest(_digest(token.strip()), self._digest):
            await self._app(scope, receive, send)
            return
        problem = Problem(
            type="urn:lmcache:problem:unauthorized",
            title="A bearer token is needed",
            status=401,
            detail="send the header Authorization: Bearer with the controller's token",
        )
        body = msgspec.json.encode(problem)
        await send(
            {
                "type": "http.response.start",
                "status": 401,
                "headers": [
                    (b"content-type", MEDIA_TYPE.encode()),
                    (b"content-length", str(len(body)).encode()),
                    (b"www-authenticate", b'Bearer realm="lmcache"'),
                ],
            }
        )
        await send({"type": "http.response.body", "body": body, "more_body": False})


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
