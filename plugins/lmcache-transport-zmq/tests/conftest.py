from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from lmcache_core.api.messages import ControllerMessage, EngineMessage, Goodbye
from lmcache_transport_zmq.link import ZmqLink
from lmcache_transport_zmq.listener import ZmqListener
from lmcache_transport_zmq.transport import ZmqTransport

PATIENCE_SECONDS = 15.0


class Ends:
    """Waiting at either end of a connection, never for ever."""

    @staticmethod
    def hello(number: int = 1) -> Goodbye:
        """A message that is told from others by its number."""
        return Goodbye(instance_id="engine", incarnation=number)

    @staticmethod
    async def heard(listener: ZmqListener) -> tuple[bytes, EngineMessage]:
        """The listener's next message."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await listener.receive()

    @staticmethod
    async def answered(link: ZmqLink) -> ControllerMessage:
        """The link's next message."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            message = await asyncio.to_thread(link.receive, 0.2)
            if message is not None:
                return message
        raise AssertionError("nothing came")

    @staticmethod
    async def until(ask: Callable[[], Awaitable[bool]], wanted: bool) -> None:
        """Ask until the answer is the one that is waited for."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await ask() is not wanted:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)


@pytest.fixture
def anyio_backend() -> str:
    """ZeroMQ's sockets live on asyncio."""
    return "asyncio"


@pytest.fixture
def ends() -> type[Ends]:
    return Ends


@pytest.fixture
def transport() -> ZmqTransport:
    return ZmqTransport()


@pytest.fixture
async def listen(
    transport: ZmqTransport,
) -> AsyncIterator[Callable[[str], Awaitable[ZmqListener]]]:
    """Makes listeners that are closed after the test."""
    listeners: list[ZmqListener] = []

    async def make(address: str) -> ZmqListener:
        listeners.append(await transport.listen(address))
        return listeners[-1]

    yield make
    for listener in listeners:
        await listener.close()


@pytest.fixture
def dial(transport: ZmqTransport) -> Iterator[Callable[[str], ZmqLink]]:
    """Makes links that are closed after the test."""
    links: list[ZmqLink] = []

    def make(address: str) -> ZmqLink:
        links.append(transport.dial(address))
        return links[-1]

    yield make
    for link in links:
        link.close()


@pytest.fixture
def free_address() -> str:
    """An address nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"
