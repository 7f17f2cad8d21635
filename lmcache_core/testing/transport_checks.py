"""What every controller transport is checked for."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lmcache_core.api.messages import ClearCommand, Events, Identify, WantSnapshot
from lmcache_core.api.transport import ControllerTransport
from lmcache_core.errors import ConfigError
from lmcache_core.testing.sample_messages import CONTROLLER_MESSAGES, ENGINE_MESSAGES
from lmcache_core.testing.transport_ends import Ends, hello

MakeTransport = Callable[[], ControllerTransport]

MANY = 200
BOUND_BYTES = 256 << 20
"""What the queue of one peer may grow to; no transport needs nearly so much."""


class TransportChecks:
    """The promises of a transport, one check for each."""

    # messages

    def test_every_engine_message_arrives_as_it_was(self, ends: Ends, any_address: str) -> None:
        listener = ends.listen(any_address)
        link = ends.dial(listener.address)
        for message in ENGINE_MESSAGES:
            assert link.send(message)
            assert ends.heard(listener)[1] == message

    def test_every_controller_message_arrives_as_it_was(self, ends: Ends, any_address: str) -> None:
        listener = ends.listen(any_address)
        link, peer = ends.met(listener)
        for message in CONTROLLER_MESSAGES:
            assert ends.send(listener, peer, message)
            assert ends.answered(link) == message

    def test_messages_keep_their_order(self, ends: Ends, any_address: str) -> None:
        listener = ends.listen(any_address)
        link, peer = ends.met(listener)
        for number in range(MANY):
            assert link.send(hello(number))
        heard = [ends.heard(listener) for _ in range(MANY)]
        assert heard == [(peer, hello(number)) for number in range(MANY)]
        commands = [
            ClearCommand(request_id=str(number), deadline_seconds=1.0, location="l")
            for number in range(MANY)
        ]
        for command in commands:
            assert ends.send(listener, peer, command)
        assert [ends.answered(link) for _ in range(MANY)] == commands

    def test_a_long_message_arrives(self, ends: Ends, any_address: str) -> None:
        listener = ends.listen(any_address)
        link = ends.dial(listener.address)
        long = Events(
            instance_id="kit",
            incarnation=1,
            sequence=1,
            location="l",
            admitted=bytes(range(256)) * (4 << 12),
        )
        assert link.send(long)
        assert ends.heard(listener)[1] == long

    def test_each_engine_gets_its_own_answers(self, ends: Ends, any_address: str) -> None:
        listener = ends.listen(any_address)
        met = [ends.met(listener, number) for number in range(4)]
        assert len({peer for _, peer in met}) == 4
        for number, (_, peer) in enumerate(met):
            command = ClearCommand(request_id=str(number), deadline_seconds=1.0, location="l")
            assert ends.send(listener, peer, command)
        for number, (link, _) in reversed(list(enumerate(met))):
            answer = ends.answered(link)
            assert isinstance(answer, ClearCommand)
            assert answer.request_id == str(number)

    # addresses

    def test_an_address_it_cannot_understand_is_refused(
        self, transport: ControllerTransport, ends: Ends, bad_address: str
    ) -> None:
        with pytest.raises(ConfigError, match=r".+"):
            transport.dial(bad_address)
        with pytest.raises(ConfigError, match=r".+"):
            ends.wait(transport.listen(bad_address))

    def test_an_address_that_is_taken_is_refused(self, ends: Ends, any_address: str) -> None:
        listener = ends.listen(any_address)
        with pytest.raises(ConfigError, match=r".+"):
            ends.listen(listener.address)
        ends.met(listener)

    def test_a_closed_listener_leaves_its_address_free(self, ends: Ends, any_address: str) -> None:
        listener = ends.listen(any_address)
        ends.wait(listener.close())
        ends.met(ends.listen(listener.address))

    # either end may come and go

    def test_the_engine_may_come_first(self, ends: Ends, free_address: str) -> None:
        began = time.monotonic()
        link = ends.dial(free_address)
        assert link.send(hello(7))
        assert link.receive(0.05) is None
        assert time.monotonic() - began < 5
        assert ends.heard(ends.listen(free_address))[1] == hello(7)

    def test_the_controller_may_restart(self, ends: Ends, free_address: str) -> None:
        link = ends.dial(free_address)
        for number in range(3):
            listener = ends.listen(free_address)
            assert link.send(hello(number))
            peer, message = ends.heard(listener)
            assert message == hello(number)
            assert ends.send(listener, peer, Identify())
            assert ends.answered(link) == Identify()
            ends.wait(listener.close())

    def test_an_engine_that_is_gone_cannot_be_sent_to(self, ends: Ends, any_address: str) -> None:
        listener = ends.listen(any_address)
        link, peer = ends.met(listener)
        link.close()
        ends.until(lambda: not ends.send(listener, peer, Identify()), "a send to nobody failing")
        assert listener.stats().dropped

    # waiting

    def test_receive_ends_at_its_timeout(self, ends: Ends, any_address: str) -> None:
        link, _ = ends.met(ends.listen(any_address))
        began = time.monotonic()
        assert link.receive(0.2) is None
        assert 0.19 <= time.monotonic() - began < 5

    def test_wake_ends_a_wait(self, ends: Ends, any_address: str) -> None:
        link, _ = ends.met(ends.listen(any_address))
        waker = threading.Timer(0.1, link.wake)
        waker.start()
        began = time.monotonic()
        assert link.receive(6) is None
        waker.join()
        assert time.monotonic() - began < 5

    def test_a_wake_that_met_nobody_ends_the_next_wait(self, ends: Ends, any_address: str) -> None:
        link, _ = ends.met(ends.listen(any_address))
        link.wake()
        began = time.monotonic()
        assert link.receive(6) is None
        assert time.monotonic() - began < 5

    def test_a_message_is_taken_though_the_link_was_woken(
        self, ends: Ends, any_address: str
    ) -> None:
        listener = ends.listen(any_address)
        link, peer = ends.met(listener)
        assert ends.send(listener, peer, WantSnapshot())
        link.wake()
        assert ends.answered(link) == WantSnapshot()

    # bounds

    def test_a_link_without_a_listener_keeps_a_bounded_queue(
        self, ends: Ends, free_address: str
    ) -> None:
        link = ends.dial(free_address)
        message = Events(
            instance_id="kit", incarnation=1, sequence=1, location="l", admitted=bytes(16 << 10)
        )
        began = time.monotonic()
        sent = 0
        while link.send(message):
            sent += 1
            assert sent * len(message.admitted) < BOUND_BYTES, "the queue has no bound"
        assert time.monotonic() - began < 30, "send waits"
        assert link.stats() == (sent, 0, 0, 1)

    def test_a_peer_that_takes_nothing_costs_a_bounded_queue(
        self, ends: Ends, any_address: str
    ) -> None:
        listener = ends.listen(any_address)
        _, silent = ends.met(listener)
        link, peer = ends.met(listener, 2)
        command = ClearCommand(
            request_id="r", deadline_seconds=1.0, location="l", tokens=bytes(16 << 10)
        )
        sent = 0
        while ends.send(listener, silent, command):
            sent += 1
            assert sent * len(command.tokens) < BOUND_BYTES, "the queue has no bound"
        assert ends.send(listener, peer, Identify()), "another peer's queue is another"
        assert ends.answered(link) == Identify()

    def test_garbage_costs_that_frame_and_is_counted(
        self, ends: Ends, any_address: str, send_garbage: Callable[[str], None]
    ) -> None:
        listener = ends.listen(any_address)
        link, peer = ends.met(listener)
        send_garbage(listener.address)
        send_garbage(listener.address)

        def counted() -> bool:
            # Garbage is no message, so that nothing may be heard until another is sent.
            with contextlib.suppress(TimeoutError):
                ends.wait(listener.receive(), 0.05)
                pytest.fail("garbage was taken for a message")
            return listener.stats().malformed == 2

        ends.until(counted, "garbage being counted")
        assert link.send(hello(3))
        assert ends.heard(listener) == (peer, hello(3))

    # counting, closing

    def test_both_ends_count(self, ends: Ends, any_address: str) -> None:
        listener = ends.listen(any_address)
        link, peer = ends.met(listener)
        assert link.send(hello(2))
        ends.heard(listener)
        assert ends.send(listener, peer, Identify())
        ends.answered(link)
        assert link.stats() == (2, 1, 0, 0)
        assert listener.stats() == (1, 2, 0, 0)

    def test_closing_is_idempotent_and_takes_no_time(self, ends: Ends, free_address: str) -> None:
        link = ends.dial(free_address)
        link.send(hello())
        began = time.monotonic()
        link.close()
        link.close()
        assert time.monotonic() - began < 5, "it waits for a controller that is not there"
        listener = ends.listen(free_address)
        ends.wait(listener.close())
        ends.wait(listener.close())

    def test_closed_ends_leave_nothing_behind(self, ends: Ends, any_address: str) -> None:
        def used() -> list[int]:
            names = ("/proc/self/fd", "/proc/self/task")
            return [sum(1 for _ in Path(name).iterdir()) for name in names]

        def come_and_go() -> None:
            listener = ends.listen(any_address)
            link, _ = ends.met(listener)
            link.close()
            ends.wait(listener.close())

        come_and_go()  # what is made once, with the first, may stay
        before = used()
        for _ in range(5):
            come_and_go()
        # The kernel lists a thread for a moment after it was joined.
        ends.until(
            lambda: all(now <= then for now, then in zip(used(), before, strict=True)),
            "files and threads going",
        )
        ends.wait(asyncio.sleep(0))
