"""The controller's end: a ROUTER on the event loop."""

from __future__ import annotations

import contextlib

import zmq
import zmq.asyncio

from lmcache_core.api.messages import ControllerMessage, EngineMessage
from lmcache_core.api.transport import ControllerListener, LinkStats, Peer
from lmcache_core.errors import MessageError
from lmcache_core.log import get_logger
from lmcache_transport_zmq import frames
from lmcache_transport_zmq.sockets import LINGER_MS

log = get_logger(__name__)


class ZmqListener(ControllerListener):
    """Where engines dial; see :class:`~lmcache_core.api.transport.ControllerListener`.

    Args:
        context: Owned by the listener from now on.
        socket: A bound ROUTER of that context.
        address: Where it is bound, with the real port.
    """

    def __init__(
        self, context: zmq.asyncio.Context, socket: zmq.asyncio.Socket, address: str
    ) -> None:
        self._context = context
        self._socket = socket
        self._address = address
        self._sent = self._received = self._malformed = self._dropped = 0

    @property
    def address(self) -> str:
        """Where it listens, with the real port."""
        return self._address

    async def receive(self) -> tuple[Peer, EngineMessage]:
        """Wait for the next message of any peer."""
        while True:
            parts = await self._socket.recv_multipart()
            try:
                if len(parts) != 2:
                    detail = f"a message of {len(parts) - 1} parts, not one"
                    raise MessageError(detail)  # noqa: TRY301 - counted where the others are
                message = frames.decode(parts[1], frames.ENGINE_MESSAGES)
            except MessageError as error:
                self._malformed += 1
                log.warning("listener.frame_dropped", reason=str(error), malformed=self._malformed)
                continue
            self._received += 1
            return parts[0], message

    async def send(self, peer: Peer, message: ControllerMessage) -> bool:
        """Send without waiting; False when the peer is gone, its queue full or the message long."""
        try:
            await self._socket.send_multipart([peer, frames.encode(message)], zmq.NOBLOCK)
        except (zmq.ZMQError, MessageError) as error:
            self._dropped += 1
            log.debug("listener.message_dropped", reason=str(error))
            return False
        self._sent += 1
        return True

    def stats(self) -> LinkStats:
        """Counts since it was made."""
        return LinkStats(self._sent, self._received, self._malformed, self._dropped)

    async def close(self) -> None:
        """Stop listening; idempotent."""
        if self._socket.closed:
            return
        with contextlib.suppress(zmq.ZMQError):
            self._socket.close(linger=LINGER_MS)
        self._context.term()
