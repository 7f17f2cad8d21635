"""The addresses of a controller and of a server."""

from __future__ import annotations

from urllib.parse import urlsplit

SCHEME = "tcp"


def controller_address(text: str) -> str:
    """Return ``scheme://host:port`` for it or for a plain ``host:port``.

    Raises:
        ValueError: It is neither; the message is the end of a sentence.
    """
    parts = urlsplit(text if "://" in text else f"{SCHEME}://{text}")
    try:
        port = parts.port
    except ValueError:
        port = None
    if not parts.hostname or not port or parts.path.strip("/") or parts.query:
        message = f"is {text!r}; write host:port or tcp://host:port, for example localhost:9001"
        raise ValueError(message)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}"


def server_address(text: str) -> str:
    """Return the address of an HTTP server as it was given.

    Raises:
        ValueError: It is none; the message is the end of a sentence.
    """
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        message = (
            f"is {text!r}; write it with http:// or https://, for example http://localhost:8000"
        )
        raise ValueError(message)
    return text
