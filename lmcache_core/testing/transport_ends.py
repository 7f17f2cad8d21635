"""Both ends of a transport, driven from one check with an end to every wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from lmcache_core.api.messages import ControllerMessage, EngineMessage, Goodbye
from lmcache_core.api.transport import (
    ControllerListener,
    ControllerTransport,
    EngineLink,
    Peer,
)

T = TypeVar("T")

PATIENCE_SECONDS = 20.0


class Ends:
    """Opens links and listeners, and waits for what they bring.

    The event loop of the listeners is the check's own: links are used from
    the check's thread, and listeners through :meth:`wait`.

    Args:
        make_transport: Makes a transport, one for each end.
    """

    def __init__(self, make_transport: Callable[[], ControllerTransport]) -> None:
        self._make = make_transport
        self._runner = asyncio.Runner()
        self._links: list[EngineLink] = []
        self._listeners: list[ControllerListener] = []

    def wait(self, coroutine: Coroutine[Any, Any, T], seconds: float | None = None) -> T:
        """Run the event loop until something is done.

        Raises:
            TimeoutError: It is not done in time.
        """

        async def run() -> T:
            async with asyncio.timeout(PATIENCE_SECONDS if seconds is None else seconds):
                return await coroutine

        return self._runner.run(run())

    def dial(self, address: str) -> EngineLink:
        """Make an engine's end."""
        self._links.append(self._make().dial(address))
        return self._links[-1]

    def listen(self, address: str) -> ControllerListener:
        """Make a controller's end."""
        self._listeners.append(self.wait(self._make().listen(address)))
        return self._listeners[-1]

    def heard(self, listener: ControllerListener) -> tuple[Peer, EngineMessage]:
        """The next message that comes to a listener."""
        return self.wait(listener.receive())

    def answered(self, link: EngineLink) -> ControllerMessage:
        """The next message that comes to a link.

        A listener may need its event loop to hand over what it has sent, so
        that both ends go on by turns.
        """
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            message = link.receive(0.05)
            if message is not None:
                return message
            self.wait(asyncio.sleep(0))
        pytest.fail(f"nothing came to a link within {PATIENCE_SECONDS:g} s")

    def met(self, listener: ControllerListener, number: int = 1) -> tuple[EngineLink, Peer]:
        """A link that a listener has heard of, and what it knows it by."""
        link = self.dial(listener.address)
        assert link.send(hello(number))
        peer, message = self.heard(listener)
        assert message == hello(number)
        return link, peer

    def send(self, listener: ControllerListener, peer: Peer, message: ControllerMessage) -> bool:
        """Send from a listener."""
        return self.wait(listener.send(peer, message))

    def until(self, ask: Callable[[], bool], what: str) -> None:
        """Ask until the answer is yes."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not ask():
            if time.monotonic() > end:
                pytest.fail(f"{what} did not happen within {PATIENCE_SECONDS:g} s")
            self.wait(asyncio.sleep(0.01))

    def close(self) -> None:
        """Close everything that was made."""
        for link in self._links:
            link.close()
        for listener in self._listeners:
            self.wait(listener.close())
        self._runner.close()


def hello(number: int = 1) -> Goodbye:
    """A message that is told from others by its number."""
    return Goodbye(instance_id="kit", incarnation=number)
