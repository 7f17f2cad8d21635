"""The address of a controller, in one spelling."""

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
