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
        """Queue a message; False when the queue is full and it was dropped."""

    @abstractmethod
    def receive(self, timeout_seconds: float) -> ControllerMessage | None:
        """Wait for a message; None at the timeout or when woken."""

    @abstractmethod
    def wake(self) -> None:
        """Make a ``receive`` that waits in another thread return; thread-safe."""

    @abstractmethod
    def stats(self) -> LinkStats:
        """Counts since the link was made."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the connection within a second; idempotent."""


class ControllerListener(ABC):
    """The controller's end, driven by its event loop.

    *Must*: keep a bounded queue per peer; drop and count a malformed frame
    and go on, so that one peer's garbage costs nobody else anything.
    """

    @property
    @abstractmethod
    def address(self) -> str:
        """Where it listens, with the real port, for example ``tcp://127.0.0.1:9001``."""

    @abstractmethod
    async def receive(self) -> tuple[Peer, EngineMessage]:
        """Wait for the next message of any peer."""

    @abstractmethod
    async def send(self, peer: Peer, message: ControllerMessage) -> bool:
        """Send to a peer without waiting; False when it is gone or its queue is full."""

    @abstractmethod
    def stats(self) -> LinkStats:
        """Counts since it was made."""

    @abstractmethod
    async def close(self) -> None:
        """Stop listening; idempotent."""


class ControllerTransport(ABC):
    """Makes both ends for the addresses of its schemes."""

    @abstractmethod
    def dial(self, address: str) -> EngineLink:
        """Make the engine's end; returns at once, also when nobody listens.

        Args:
            address: ``scheme://host:port``.

        Raises:
            ConfigError: The address cannot be understood.
        """

    @abstractmethod
    async def listen(self, address: str) -> ControllerListener:
        """Listen on an address; port 0 takes any free port.

        Raises:
            ConfigError: The address cannot be understood or is taken; the
                message says by what to replace it.
        """
