"""The contract of a controller transport: messages between engine and controller.

A transport moves messages and nothing else. Registration, heartbeats,
sequence numbers and deadlines are the core's, on both ends, so that every
transport has them without writing them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from lmcache_core.api.messages import ControllerMessage, EngineMessage

Peer = bytes
"""A connection as the listener knows it; opaque."""


class LinkStats(NamedTuple):
    """What one end of a transport has counted.

    Attributes:
        sent: Messages handed to the network.
        received: Messages handed to the caller.
        malformed: Frames dropped because they could not be understood.
        dropped: Messages refused because the queue was full.
    """

    sent: int
    received: int
    malformed: int
    dropped: int


class EngineLink(ABC):
    """The engine's end: one outgoing connection that heals itself.

    *Must*: reconnect for ever, with jittered back-off, without help; keep a
    bounded queue; drop and count a malformed frame and go on; never block in
    ``send``. All methods but ``wake`` are called from one thread.
    """

    @abstractmethod
    def send(self, message: EngineMessage) -> bool:
        """Queue a message; False when it was dropped.

        *Must*: drop and count where the queue is full, or the message is
        longer than the other end takes; deliver in order what it has taken,
        as long as the connection lasts.
        *Must not*: wait.
        """

    @abstractmethod
    def receive(self, timeout_seconds: float) -> ControllerMessage | None:
        """Wait for a message; None at the timeout or when woken.

        *Must*: drop and count what is no message and go on waiting; hand over
        a message that is there before it heeds a ``wake``.
        """

    @abstractmethod
    def wake(self) -> None:
        """Make a ``receive`` that waits in another thread return, or else the next one.

        *Guaranteed*: may come from any thread, also after ``close``.
        """

    @abstractmethod
    def stats(self) -> LinkStats:
        """Counts since the link was made.

        *Must*: count every message once, under the outcome it had.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the connection.

        *Must*: be idempotent; be done within a second, handing over what is
        queued if that can be done by then.
        """


class ControllerListener(ABC):
    """The controller's end, driven by its event loop.

    *Must*: keep a bounded queue per peer; drop and count a malformed frame
    and go on, so that one peer's garbage costs nobody else anything.
    """

    @property
    @abstractmethod
    def address(self) -> str:
        """Where it listens, for example ``tcp://127.0.0.1:9001``.

        *Must*: have the real port; be what an engine of this host can dial.
        """

    @abstractmethod
    async def receive(self) -> tuple[Peer, EngineMessage]:
        """Wait for the next message of any peer.

        *Must*: hand over the messages of one peer in their order; drop and
        count what is no message and go on waiting.
        """

    @abstractmethod
    async def send(self, peer: Peer, message: ControllerMessage) -> bool:
        """Send to a peer; False when it is gone or its queue is full.

        *Must*: count what was dropped; deliver in order what it has taken, as
        long as the connection lasts.
        *Must not*: wait for the peer.
        """

    @abstractmethod
    def stats(self) -> LinkStats:
        """Counts since it was made.

        *Must*: count every message once, under the outcome it had.
        """

    @abstractmethod
    async def close(self) -> None:
        """Stop listening.

        *Must*: be idempotent; leave the address free for the next one.
        """


class ControllerTransport(ABC):
    """Makes both ends for the addresses of its schemes.

    To write one: subclass, implement both methods and the two ends, hand it
    over in a :class:`~lmcache_core.api.TransportSpec` from
    ``lmcache_register_controller_transports``, and run
    :class:`lmcache_core.testing.ControllerTransportTests` against it.

    *Must*, for both ends: carry the plain values that ``to_wire`` makes, read
    them back with ``engine_message`` or ``controller_message``, or what does
    the same for its encoding, such as msgspec's decoder of ``EngineMessage``
    or ``ControllerMessage``, and never with anything that can run code.
    """

    @abstractmethod
    def dial(self, address: str) -> EngineLink:
        """Make the engine's end.

        *Must*: return at once, also when nobody listens.

        Args:
            address: ``scheme://host:port``.

        Raises:
            ConfigError: The address cannot be understood.
        """

    @abstractmethod
    async def listen(self, address: str) -> ControllerListener:
        """Listen on an address.

        *Must*: take any free port for port 0.

        Raises:
            ConfigError: The address cannot be understood or is taken; the
                message says by what to replace it.
        """
