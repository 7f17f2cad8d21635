"""One broken controller transport for each check, and a good one to compare them with.

See ``broken_backends.py``; ``test_kits.py`` runs the kit over all of them.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import ClassVar

import msgspec
import pytest

from lmcache_core.api.messages import MoveCommand, Reply
from lmcache_core.errors import ConfigError, MessageError
from lmcache_core.testing import ControllerTransportTests, QueueTransport
from lmcache_core.testing.queue_transport import (
    EXCHANGE,
    QueueLink,
    QueueListener,
    send_garbage,
)

PORTS = itertools.count(1)
LEAKED: list[int] = []


class Suite(ControllerTransportTests):
    __test__ = False
    transport_type: ClassVar[type[QueueTransport]] = QueueTransport

    @pytest.fixture(autouse=True)
    def _close_leaked(self) -> Iterator[None]:
        yield
        while LEAKED:
            os.close(LEAKED.pop())

    @pytest.fixture
    def make_transport(self) -> Callable[[], QueueTransport]:
        return self.transport_type

    @pytest.fixture
    def any_address(self) -> str:
        return "queue://kit:0"

    @pytest.fixture
    def free_address(self) -> str:
        return f"queue://free:{next(PORTS)}"

    @pytest.fixture
    def bad_address(self) -> str:
        return "tcp://127.0.0.1:80"

    @pytest.fixture
    def send_garbage(self) -> Callable[[str], None]:
        return send_garbage


class TestGood(Suite):
    __test__ = True


BROKEN: dict[str, str] = {}
"""The check that each suite is to fail, by the suite's name."""


def broken(check: str) -> Callable[[type], type]:
    """Make a suite over a broken end that is to fail ``check`` and nothing else."""

    def make(end: type) -> type:
        name = f"Test{end.__name__}"
        BROKEN[name] = check
        place = next(
            place
            for place, kind in (
                ("link_type", QueueLink),
                ("listener_type", QueueListener),
                ("", QueueTransport),
            )
            if issubclass(end, kind)
        )
        transport = type(end.__name__, (QueueTransport,), {place: end}) if place else end
        suite = {"transport_type": transport, "__module__": __name__}
        globals()[name] = type(name, (TestGood,), suite)
        return end

    return make


# messages


@broken("test_every_engine_message_arrives_as_it_was")
class DropsFacts(QueueLink):
    def send(self, message):
        if isinstance(message, Reply):
            message = msgspec.structs.replace(message, facts={})
        return super().send(message)


@broken("test_every_controller_message_arrives_as_it_was")
class KeepsNothing(QueueListener):
    async def send(self, peer, message):
        if isinstance(message, MoveCommand):
            message = msgspec.structs.replace(message, keep=False)
        return await super().send(peer, message)


@broken("test_messages_keep_their_order")
class LastInFirstOut(QueueListener):
    def take(self, peer, plain):
        super().take(peer, plain)
        if len(self._arrived) == 100:
            self._arrived.rotate(1)


@broken("test_a_long_message_arrives")
class TakesAMegabyte(QueueLink):
    def send(self, message):
        return len(getattr(message, "admitted", b"")) <= 1 << 20 and super().send(message)


@broken("test_each_engine_gets_its_own_answers")
class AnswersTheFirst(QueueListener):
    async def send(self, peer, message):
        links = [link for link in EXCHANGE.links.values() if link.address == self.address]
        return await super().send(links[0].name if len(links) == 4 else peer, message)


# addresses


@broken("test_an_address_it_cannot_understand_is_refused")
class DialsAnything(QueueTransport):
    def dial(self, address):
        try:
            return super().dial(address)
        except ConfigError:
            return QueueLink(address)


@broken("test_an_address_that_is_taken_is_refused")
class TakesAddressesOver(QueueTransport):
    async def listen(self, address):
        EXCHANGE.listeners.pop(address, None)
        return await super().listen(address)


@broken("test_a_closed_listener_leaves_its_address_free")
class StaysThere(QueueListener):
    async def close(self):
        if "//free:" in self.address:
            await super().close()


# either end may come and go


@broken("test_the_engine_may_come_first")
class ForgetsWhatCameFirst(QueueLink):
    def send(self, message):
        taken = super().send(message)
        if message.incarnation == 7 and self.address not in EXCHANGE.listeners:
            self.waiting.clear()
        return taken


@broken("test_the_controller_may_restart")
class KnowsOneController(QueueLink):
    known = None

    def send(self, message):
        listener = EXCHANGE.listeners.get(self.address)
        self.known = self.known or listener
        return listener is self.known and super().send(message)


@broken("test_an_engine_that_is_gone_cannot_be_sent_to")
class SendsToNobody(QueueListener):
    async def send(self, peer, message):
        sent = await super().send(peer, message)
        return sent or peer not in EXCHANGE.links


# waiting


@broken("test_receive_ends_at_its_timeout")
class DoesNotWait(QueueLink):
    def receive(self, timeout_seconds):
        return super().receive(0 if timeout_seconds == 0.2 else timeout_seconds)


@broken("test_wake_ends_a_wait")
class SleepsOn(QueueLink):
    waits = False

    def receive(self, timeout_seconds):
        self.waits = timeout_seconds > 1
        return super().receive(timeout_seconds)

    def wake(self):
        if not self.waits:
            super().wake()


@broken("test_a_wake_that_met_nobody_ends_the_next_wait")
class WakesWhoWaits(QueueLink):
    waits = False

    def receive(self, timeout_seconds):
        self.waits = True
        try:
            return super().receive(timeout_seconds)
        finally:
            self.waits = False

    def wake(self):
        if self.waits:
            super().wake()


@broken("test_a_message_is_taken_though_the_link_was_woken")
class DropsWhenWoken(QueueLink):
    def wake(self):
        self._arrived.clear()
        super().wake()


# bounds


@broken("test_a_link_without_a_listener_keeps_a_bounded_queue")
class QueuesForEver(QueueLink):
    def send(self, message):
        held, self.waiting = self.waiting, type(self.waiting)()
        taken = super().send(message)
        held.extend(self.waiting)
        self.waiting = held
        EXCHANGE.carry(self.address)
        return taken


@broken("test_a_peer_that_takes_nothing_costs_a_bounded_queue")
class ArrivesForEver(QueueLink):
    def arrive(self, plain):
        self._arrived.append(plain)
        return True


@broken("test_garbage_costs_that_frame_and_is_counted")
class ChokesOnGarbage(QueueListener):
    async def receive(self):
        malformed = self._malformed
        message = await super().receive()
        if self._malformed != malformed:
            detail = "garbage"
            raise MessageError(detail)
        return message

    def stats(self):
        return super().stats()._replace(malformed=0)


# counting, closing


@broken("test_both_ends_count")
class CountsNoAnswers(QueueLink):
    def stats(self):
        return super().stats()._replace(received=0)


@broken("test_closing_is_idempotent_and_takes_no_time")
class ClosesOnce(QueueLink):
    closed = 0

    def close(self):
        self.closed += 1
        if self.closed == 2 and self.waiting:
            message = "closed already"
            raise MessageError(message)
        super().close()


@broken("test_closed_ends_leave_nothing_behind")
class LeaksAFile(QueueLink):
    def __init__(self, address):
        super().__init__(address)
        LEAKED.append(os.open(os.devnull, os.O_RDONLY))
