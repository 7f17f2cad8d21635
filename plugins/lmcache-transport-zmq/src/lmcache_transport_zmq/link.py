"""The engine's end: a DEALER that heals itself."""

from __future__ import annotations

import math
import os
import random
import secrets
import threading
import time

import zmq

from lmcache_core.api.messages import ControllerMessage, EngineMessage
from lmcache_core.api.transport import EngineLink, LinkStats
from lmcache_core.errors import MessageError
from lmcache_core.log import get_logger
from lmcache_transport_zmq import frames
from lmcache_transport_zmq.address import TcpAddress
from lmcache_transport_zmq.sockets import LINGER_MS, harden

log = get_logger(__name__)

FIRST_RECONNECT_MS = (100, 200)
LONGEST_RECONNECT_MS = 5_000
FAMILY_SECONDS = 5.0
"""How long one address family of a name is tried before the other."""


class ZmqLink(EngineLink):
    """One outgoing connection; see :class:`~lmcache_core.api.transport.EngineLink`.

    Args:
        address: The controller's.
    """

    def __init__(self, address: TcpAddress) -> None:
        self._address = address
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.DEALER)
        harden(self._socket)
        # A name of its own makes a connection that was cut and made again the
        # same peer to the controller, whose queued commands are not lost.
        self._socket.setsockopt(zmq.ROUTING_ID, b"e" + secrets.token_bytes(15))
        # A fleet must not knock in step after its controller has restarted.
        self._socket.setsockopt(zmq.RECONNECT_IVL, random.randint(*FIRST_RECONNECT_MS))  # noqa: S311
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, LONGEST_RECONNECT_MS)
        self._ipv6 = address.ip_version == 6
        self._heard = address.ip_version is not None
        self._connect()
        self._waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._waker_lock = threading.Lock()
        self._closed = False
        # One call, which looks, waits and looks again without Python's lock:
        # to ask the socket whether its descriptor tells the truth needs the
        # lock, and the serving thread waits for whoever has that.
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._waker, zmq.POLLIN)
        self._sent = self._received = self._malformed = self._dropped = 0

    def send(self, message: EngineMessage) -> bool:
        """Queue a message; False when the queue is full or the message too long."""
        try:
            self._socket.send(frames.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            self._dropped += 1
            return False
        except MessageError as error:
            self._dropped += 1
            log.warning("link.message_too_long", reason=str(error))
            return False
        self._sent += 1
        return True

    def receive(self, timeout_seconds: float) -> ControllerMessage | None:
        """Wait for a message; None at the timeout or when woken."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            self._try_other_family()
            ready = dict(self._poller.poll(_milliseconds(deadline)))
            if self._socket in ready:
                message = self._take()
                if message is not None:
                    return message
            elif ready:
                os.eventfd_read(self._waker)
                return None
            if time.monotonic() >= deadline:
                return None

    def wake(self) -> None:
        """Make a ``receive`` in another thread return; thread-safe, also after ``close``."""
        with self._waker_lock:
            if not self._closed:
                os.eventfd_write(self._waker, 1)

    def stats(self) -> LinkStats:
        """Counts since the link was made."""
        return LinkStats(self._sent, self._received, self._malformed, self._dropped)

    def close(self) -> None:
        """Hand over what is queued within half a second and let go; idempotent."""
        with self._waker_lock:
            if self._closed:
                return
            self._closed = True
            os.close(self._waker)
        self._context.destroy(linger=LINGER_MS)

    def _take(self) -> ControllerMessage | None:
        try:
            parts = self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None
        self._heard = True
        try:
            if len(parts) != 1:
                detail = f"a message of {len(parts)} parts, not one"
                raise MessageError(detail)  # noqa: TRY301 - counted where the others are
            message = frames.decode(parts[0], frames.CONTROLLER_MESSAGES)
        except MessageError as error:
            self._malformed += 1
            log.warning("link.frame_dropped", reason=str(error), malformed=self._malformed)
            return None
        self._received += 1
        return message

    def _connect(self) -> None:
        self._socket.setsockopt(zmq.IPV6, int(self._ipv6))
        self._socket.connect(str(self._address))
        self._family_until = time.monotonic() + FAMILY_SECONDS

    def _try_other_family(self) -> None:
        """A name may stand for addresses of two families, and ZeroMQ dials only one of them."""
        if self._heard or time.monotonic() < self._family_until:
            return
        self._socket.disconnect(str(self._address))
        self._ipv6 = not self._ipv6
        self._connect()


def _milliseconds(deadline: float) -> int:
    # Rounded up: a wait that ends early would be begun again at once, busily.
    return math.ceil(max(0.0, deadline - time.monotonic()) * 1000)
