"""Ports that nobody listens on just now."""

from __future__ import annotations

import socket
from contextlib import ExitStack


def free_port() -> int:
    """One of them, on this machine."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Some of them, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
