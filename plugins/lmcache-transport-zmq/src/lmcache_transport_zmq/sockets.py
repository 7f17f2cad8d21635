"""What both ends ask of a ZeroMQ socket."""

from __future__ import annotations

from typing import Any

import zmq

QUEUE_MESSAGES = 1024
"""Bound of each queue, per peer and direction."""

LINGER_MS = 500
"""How long closing may take to hand over what is queued, a goodbye for example."""

PING_MS = 5_000
SILENCE_MS = 15_000
"""A connection is dropped after so much silence; a host may go without a word."""

LONGEST_MESSAGE_BYTES = 256 << 20
"""ZeroMQ ends a connection that announces more; frames are judged one by one well below it."""


def harden(socket: zmq.Socket[Any]) -> None:
    """Bound a socket's queues, message size and closing, and let it notice a dead peer."""
    socket.setsockopt(zmq.SNDHWM, QUEUE_MESSAGES)
    socket.setsockopt(zmq.RCVHWM, QUEUE_MESSAGES)
    socket.setsockopt(zmq.LINGER, LINGER_MS)
    socket.setsockopt(zmq.MAXMSGSIZE, LONGEST_MESSAGE_BYTES)
    socket.setsockopt(zmq.HEARTBEAT_IVL, PING_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENCE_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, SILENCE_MS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, SILENCE_MS)
