"""The reference controller transport: both ends in one process, and queues between them."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar

from lmcache_core.api.messages import (
    ControllerMessage,
    EngineMessage,
    controller_message,
    engine_message,
    to_wire,
)
from lmcache_core.api.spec import EmptyConfig
from lmcache_core.api.transport import (
    ControllerListener,
    ControllerTransport,
    EngineLink,
    LinkStats,
    Peer,
)
from lmcache_core.errors import ConfigError, MessageError

SCHEME = "queue"
QUEUE_MESSAGES = 1000
"""Messages that wait at either end; more are dropped."""

Plain = Mapping[str, Any]


class Exchange:
    """Where the ends of one process find each other, by address.

    Attributes:
        lock: Held while anything here or in an end is read or changed.
        listeners: Who listens, by address.
        links: Who has dialled, in the order of their numbers.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.listeners: dict[str, QueueListener] = {}
        self.links: dict[Peer, QueueLink] = {}
        self._numbers = itertools.count(1)

    def number(self) -> int:
        """A number that nobody has had."""
        return next(self._numbers)

    def carry(self, address: str) -> None:
        """Bring what waits at the links of an address to who listens there."""
        listener = self.listeners.get(address)
        if listener is None:
            return
        for link in self.links.values():
            while link.address == address and link.waiting and listener.has_room(link.name):
                listener.take(link.name, link.waiting.popleft())


EXCHANGE = Exchange()
"""That of this process."""


class QueueLink(EngineLink):
    """The engine's end; see :class:`~lmcache_core.api.transport.EngineLink`.

    Args:
        address: Where it dials.

    Attributes:
        address: See above.
        name: What the listener knows it by.
        waiting: What has been sent and not been taken, as it is on the wire.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.waiting: deque[Plain] = deque()
        self._arrived: deque[Plain] = deque()
        self._something = threading.Condition(EXCHANGE.lock)
        self._woken = self._closed = False
        self._sent = self._received = self._malformed = self._dropped = 0
        with EXCHANGE.lock:
            self.name = f"link-{EXCHANGE.number()}".encode()
            EXCHANGE.links[self.name] = self

    def send(self, message: EngineMessage) -> bool:
        """Queue a message; False where too many wait."""
        with EXCHANGE.lock:
            if self._closed or len(self.waiting) >= QUEUE_MESSAGES:
                self._dropped += 1
                return False
            self.waiting.append(to_wire(message))
            self._sent += 1
            EXCHANGE.carry(self.address)
            return True

    def receive(self, timeout_seconds: float) -> ControllerMessage | None:
        """Wait for a message; None at the timeout or when woken."""
        with self._something:
            self._something.wait_for(lambda: self._arrived or self._woken, timeout_seconds)
            while self._arrived:
                try:
                    message = controller_message(self._arrived.popleft())
                except MessageError:
                    self._malformed += 1
                    continue
                self._received += 1
                return message
            self._woken = False
            return None

    def wake(self) -> None:
        """Make a ``receive`` in another thread return; thread-safe."""
        with self._something:
            self._woken = True
            self._something.notify_all()

    def stats(self) -> LinkStats:
        """Counts since the link was made."""
        return LinkStats(self._sent, self._received, self._malformed, self._dropped)

    def close(self) -> None:
        """Let go of the connection; idempotent."""
        with EXCHANGE.lock:
            EXCHANGE.carry(self.address)
            self._closed = True
            EXCHANGE.links.pop(self.name, None)

    def arrive(self, plain: Plain) -> bool:
        """Take what the controller sends; False where too much waits; the lock is held."""
        if len(self._arrived) >= QUEUE_MESSAGES:
            return False
        self._arrived.append(plain)
        self._something.notify_all()
        return True


class QueueListener(ControllerListener):
    """The controller's end; see :class:`~lmcache_core.api.transport.ControllerListener`.

    Args:
        address: Where it listens.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._something = asyncio.Event()
        self._arrived: deque[tuple[Peer, Plain]] = deque()
        self._by_peer: dict[Peer, int] = {}
        self._sent = self._received = self._malformed = self._dropped = 0

    @property
    def address(self) -> str:
        """Where it listens."""
        return self._address

    async def receive(self) -> tuple[Peer, EngineMessage]:
        """Wait for the next message of any peer."""
        while True:
            with EXCHANGE.lock:
                found = self._next()
                if found is None:
                    self._something.clear()
            if found is not None:
                return found
            await self._something.wait()

    async def send(self, peer: Peer, message: ControllerMessage) -> bool:
        """Send to a peer without waiting; False when it is gone or its queue is full."""
        with EXCHANGE.lock:
            link = EXCHANGE.links.get(peer)
            if link is None or link.address != self._address or not link.arrive(to_wire(message)):
                self._dropped += 1
                return False
            self._sent += 1
            return True

    def stats(self) -> LinkStats:
        """Counts since it was made."""
        return LinkStats(self._sent, self._received, self._malformed, self._dropped)

    async def close(self) -> None:
        """Stop listening; idempotent."""
        with EXCHANGE.lock:
            if EXCHANGE.listeners.get(self._address) is self:
                del EXCHANGE.listeners[self._address]

    def has_room(self, peer: Peer) -> bool:
        """Whether a peer may send more; the lock is held."""
        return self._by_peer.get(peer, 0) < QUEUE_MESSAGES

    def take(self, peer: Peer, plain: Plain) -> None:
        """Take what a peer sends; the lock is held."""
        self._arrived.append((peer, plain))
        self._by_peer[peer] = self._by_peer.get(peer, 0) + 1
        self._loop.call_soon_threadsafe(self._something.set)

    def _next(self) -> tuple[Peer, EngineMessage] | None:
        while self._arrived:
            peer, plain = self._arrived.popleft()
            self._by_peer[peer] -= 1
            if not self._by_peer[peer]:
                del self._by_peer[peer]
            EXCHANGE.carry(self._address)
            try:
                message = engine_message(plain)
            except MessageError:
                self._malformed += 1
                continue
            self._received += 1
            return peer, message
        return None


class QueueTransport(ControllerTransport):
    """Carries messages inside one process, for tests of what stands on a transport.

    Addresses are ``queue://NAME:PORT``. Messages go through the plain values
    that a transport turns into bytes, and are read back from them.

    Args:
        config: There is nothing to configure.

    Attributes:
        link_type: What it makes of the engine's end.
        listener_type: What it makes of the controller's end.
    """

    link_type: ClassVar[type[QueueLink]] = QueueLink
    listener_type: ClassVar[type[QueueListener]] = QueueListener

    def __init__(self, config: EmptyConfig | None = None) -> None:
        del config

    def dial(self, address: str) -> QueueLink:
        """Make the engine's end; returns at once, also when nobody listens.

        Raises:
            ConfigError: The address cannot be understood.
        """
        return self.link_type("{}:{}".format(*_parse(address)))

    async def listen(self, address: str) -> QueueListener:
        """Listen on an address; port 0 takes any free port.

        Raises:
            ConfigError: The address cannot be understood or is taken.
        """
        name, port = _parse(address)
        with EXCHANGE.lock:
            listener = self.listener_type(f"{name}:{port or EXCHANGE.number()}")
            if listener.address in EXCHANGE.listeners:
                message = f"{listener.address} is taken; choose another, or port 0 for any"
                raise ConfigError(message)
            EXCHANGE.listeners[listener.address] = listener
            EXCHANGE.carry(listener.address)
        return listener


def _parse(address: str) -> tuple[str, int]:
    scheme, _, rest = address.partition("://")
    name, _, port = rest.rpartition(":")
    if scheme != SCHEME or not name or not port.isdecimal():
        message = f"{address!r} is no address of the form {SCHEME}://NAME:PORT"
        raise ConfigError(message)
    return f"{SCHEME}://{name}", int(port)


def send_garbage(address: str) -> None:
    """Let a peer send something that is no message to who listens at an address."""
    link = QueueLink(address)
    with EXCHANGE.lock:
        link.waiting.append({"t": "no message"})
    link.close()
