"""Who is let through: no page of another site, and with a token only who brings it."""

from __future__ import annotations

import hashlib
import hmac
import socket

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from lmcache_core.config.controller import is_address
from lmcache_core.controller.problems import MEDIA_TYPE, Problem

OPEN_PATHS = frozenset({"/healthz"})
"""What a load balancer may ask without a token."""

FOREIGN = Problem(
    type="urn:lmcache:problem:foreign-origin",
    title="A page of another site may not ask",
    status=403,
    detail="the Origin header names another host than the Host header; ask without a browser, "
    "or from a page that this controller serves",
)
MISDIRECTED = Problem(
    type=FOREIGN.type,
    title=FOREIGN.title,
    status=403,
    detail="the Host header names neither this machine nor an address, as when a page of another "
    "site has had its name mean this machine; ask localhost, or start the controller with a token "
    "or with --insecure",
)
UNAUTHORIZED = Problem(
    type="urn:lmcache:problem:unauthorized",
    title="A bearer token is needed",
    status=401,
    detail="send the header Authorization: Bearer with the controller's token",
)


class OriginGate:
    """Refuses what a browser sends for a page of another site.

    Loopback keeps other machines out, not the pages that this machine's
    browser shows, and one of those could clear every cache unseen.

    Args:
        app: What it guards.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] == ScopeType.HTTP:
            origin = _header(scope, b"origin")
            if origin and origin.partition(b"://")[2] != _header(scope, b"host"):
                await _refuse(send, FOREIGN)
                return
        await self._app(scope, receive, send)


class HostGate:
    """Refuses what was sent to a name that nobody here has given this machine.

    Of a site whose name was made to mean loopback, which its owner can do at
    any time, a browser takes the controller for a part: ``Origin`` is right
    then. The name is still in ``Host``. An address is nobody's name.

    Args:
        app: What it guards.
        host: The name that the controller is configured to serve.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        self._names = {"", "localhost", host.lower(), socket.gethostname().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] == ScopeType.HTTP:
            asked = _header(scope, b"host").decode("latin-1").lower()
            name = asked if asked.endswith("]") else asked.rpartition(":")[0] or asked
            if name not in self._names and not is_address(name.strip("[]")):
                await _refuse(send, MISDIRECTED)
                return
        await self._app(scope, receive, send)


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
        if scope["type"] == ScopeType.HTTP and scope["path"] not in OPEN_PATHS:
            kind, _, token = _header(scope, b"authorization").partition(b" ")
            # Digests are compared, so that neither content nor length shows in the time.
            right = hmac.compare_digest(_digest(token.strip()), self._digest)
            if kind.lower() != b"bearer" or not right:
                challenge = (b"www-authenticate", b'Bearer realm="lmcache"')
                await _refuse(send, UNAUTHORIZED, challenge)
                return
        await self._app(scope, receive, send)


def _header(scope: HTTPScope, wanted: bytes) -> bytes:
    return next((value for name, value in scope["headers"] if name == wanted), b"")


async def _refuse(send: Send, problem: Problem, *headers: tuple[bytes, bytes]) -> None:
    body = msgspec.json.encode(problem)
    await send(
        {
            "type": "http.response.start",
            "status": problem.status,
            "headers": [
                (b"content-type", MEDIA_TYPE.encode()),
                (b"content-length", str(len(body)).encode()),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
