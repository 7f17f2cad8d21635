"""The control agent over real ZeroMQ, against a controller that a test plays."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from lmcache_core.api.messages import (
    ClearCommand,
    Events,
    Goodbye,
    HealthCommand,
    Heartbeat,
    Held,
    Identify,
    PinCommand,
    Register,
    RenewCommand,
    Reply,
    SettleCommand,
    UnpinCommand,
    WantSnapshot,
    Welcome,
)
from lmcache_core.api.pins import PinRenewal, PinState
from lmcache_core.engine.control import event_feed
from lmcache_core.engine.control.agent import ControlAgent
from lmcache_core.engine.control.event_feed import EventFeed
from lmcache_core.engine.control.roll import Roll
from lmcache_core.keys import tokens_to_bytes
from lmcache_core.plugins import PluginRegistry
from lmcache_transport_zmq.link import ZmqLink
from tests.engine.rig import CHUNK_TOKENS, Rig
from tests.engine.test_pins import MEMORY, ask

WAIT = 20


class Controller:
    """One end of the conversation; keeps what it was told."""

    def __init__(self, listener):
        self.listener = listener
        self.peer = None
        self.held: dict[str, set[bytes]] = {}
        self.sequence = None
        self.messages = []

    async def next(self, kind):
        async with asyncio.timeout(WAIT):
            while True:
                self.peer, message = await self.listener.receive()
                self.messages.append(message)
                if isinstance(message, Events):
                    self._apply(message)
                if isinstance(message, kind):
                    return message

    async def send(self, message):
        assert await self.listener.send(self.peer, message)

    async def welcome(self):
        hello = await self.next(Register)
        await self.send(
            Welcome(
                instance_id=hello.instance_id, incarnation=hello.incarnation, ledger_id="ledger"
            )
        )
        self.pins, self.pin_requests = [], []
        while not (part := await self.next(Held)).last:
            self._named(part)
        self._named(part)
        while not (await self.next(Events)).last:
            pass
        return hello

    def _named(self, part):
        self.pins += part.pins
        self.pin_requests += part.pin_requests

    async def ask(self, command):
        await self.send(command)
        return await self.next(Reply)

    async def next_reply(self, request_id):
        while (reply := await self.next(Reply)).request_id != request_id:
            pass
        return reply

    def _apply(self, events):
        if self.sequence is not None:
            assert events.sequence == self.sequence + 1
        self.sequence = events.sequence
        held = self.held.setdefault(events.location, set())
        held |= {events.admitted[i : i + 32] for i in range(0, len(events.admitted), 32)}
        held -= {events.evicted[i : i + 32] for i in range(0, len(events.evicted), 32)}


@contextlib.asynccontextmanager
async def conversation(**fields):
    transport = PluginRegistry.discover().transport("tcp://127.0.0.1:0")
    listener = await transport.load()(transport.config()).listen("tcp://127.0.0.1:0")
    overrides = {
        "enable_controller": True,
        "controller_url": listener.address,
        "heartbeat_seconds": 0.1,
        **fields.pop("overrides", {}),
    }
    try:
        with Rig(overrides=overrides, **fields) as rig:
            yield rig, Controller(listener)
    finally:
        await listener.close()


def test_it_registers_with_what_a_controller_needs_to_compute_keys():
    async def scenario():
        async with conversation() as (rig, controller):
            hello = await controller.welcome()
            assert hello.namespace.digest() == rig.engine.tiers.namespace.digest()
            assert [tier.location for tier in hello.tiers] == [MEMORY]
            assert hello.tiers[0].capacity_bytes == rig.config.tiers[0].capacity_bytes
            beat = await controller.next(Heartbeat)
            assert beat.incarnation == hello.incarnation

    asyncio.run(scenario())


def test_events_tell_what_is_there_and_what_went():
    async def scenario():
        async with conversation(chunks=4) as (rig, controller):
            rig.serve(list(range(20)))
            await controller.welcome()
            assert controller.held[MEMORY] == set(rig.engine.tiers.keys(MEMORY))
            for base in range(0, 900, 100):
                rig.serve(list(range(base, base + 16)))
            held = set(rig.engine.tiers.keys(MEMORY))
            while controller.held[MEMORY] != held:
                await controller.next(Events)

    asyncio.run(scenario())


def test_a_gap_is_filled_by_a_snapshot():
    async def scenario():
        async with conversation() as (rig, controller):
            await controller.welcome()
            rig.serve(list(range(20)))
            await controller.next(Events)
            controller.held.clear()
            await controller.send(WantSnapshot())
            while not (await controller.next(Events)).last:
                pass
            assert controller.held[MEMORY] == set(rig.engine.tiers.keys(MEMORY))

    asyncio.run(scenario())


def test_pin_unpin_clear_and_health_answer_what_was_done():
    async def scenario():
        async with conversation() as (rig, controller):
            await controller.welcome()
            rig.serve(list(range(20)))
            rig.serve(list(range(500, 516)))
            pin = PinCommand(request_id="1", deadline_seconds=5, pin=ask(range(20)))
            reply = await controller.ask(pin)
            assert (reply.request_id, reply.num_tokens) == ("1", 20)
            assert reply.pin.state is PinState.ACTIVE
            clear = ClearCommand(request_id="2", deadline_seconds=5, location=MEMORY)
            assert (await controller.ask(clear)).num_tokens == 16
            assert rig.hit(list(range(20))) == 20
            unpin = UnpinCommand(request_id="3", deadline_seconds=5, pin_id="p", version=1)
            assert (await controller.ask(unpin)).num_tokens == 20
            assert (await controller.ask(clear)).num_tokens == 20
            health = HealthCommand(request_id="4", deadline_seconds=5)
            assert (await controller.ask(health)).facts == {"unhealthy_tiers": 0}

    asyncio.run(scenario())


def test_a_pin_is_renewed_without_its_tokens_where_it_is_held():
    async def scenario():
        async with conversation() as (rig, controller):
            await controller.welcome()
            rig.serve(list(range(20)))
            await controller.ask(PinCommand(request_id="1", deadline_seconds=5, pin=ask(range(20))))
            change = PinRenewal(pin_id="p", version=2, since=1, location=MEMORY)
            renew = RenewCommand(request_id="2", deadline_seconds=5, renewal=change)
            reply = await controller.ask(renew)
            assert (reply.error, reply.num_tokens, reply.pin.version) == (None, 20, 2)
            reply = await controller.ask(renew)
            assert (reply.error, reply.num_tokens, reply.pin) == ("not_held", 0, None)
            assert "at version 1" in reply.detail

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("request_fields", "error"),
    [
        ({"location": "LocalDiskBackend"}, "unknown_location"),
        ({"on_missing": "fail"}, "missing"),
    ],
)
def test_a_refusal_says_which_kind_it_is(request_fields, error):
    from lmcache_core.api.pins import OnMissing

    if "on_missing" in request_fields:
        request_fields = {"on_missing": OnMissing(request_fields["on_missing"])}

    async def scenario():
        async with conversation() as (_, controller):
            await controller.welcome()
            pin = PinCommand(
                request_id="1", deadline_seconds=5, pin=ask(range(20), **request_fields)
            )
            reply = await controller.ask(pin)
            assert (reply.error, reply.num_tokens) == (error, 0)
            assert reply.detail

    asyncio.run(scenario())


def test_a_pin_waits_for_the_store_that_is_under_way():
    async def scenario():
        async with conversation() as (rig, controller):
            await controller.welcome()
            tokens = list(range(20))
            name = rig.begin(tokens)
            job = rig.engine.plan_store(name, 20, [rig.blocks_for(20)], final=True)
            rig.store(job)
            pin = PinCommand(request_id="1", deadline_seconds=10, pin=ask(tokens))
            await controller.send(pin)
            await controller.next(Heartbeat)
            await controller.next(Heartbeat)
            assert not any(isinstance(m, Reply) for m in controller.messages)
            rig.engine.acknowledge([job.job_id])
            assert (await controller.next(Reply)).num_tokens == 20

    asyncio.run(scenario())


def test_a_pin_does_not_wait_past_its_deadline_nor_for_others_stores():
    async def scenario():
        async with conversation() as (rig, controller):
            await controller.welcome()
            rig.serve(list(range(300, 320)))
            tokens = list(range(20))
            name = rig.begin(tokens)
            assert rig.engine.plan_store(name, 20, [rig.blocks_for(20)], final=True)
            other = PinCommand(request_id="1", deadline_seconds=0.5, pin=ask(tokens))
            assert (await controller.ask(other)).num_tokens == 0

    asyncio.run(scenario())


def test_settling_sends_the_events_before_the_answer():
    async def scenario():
        async with conversation() as (rig, controller):
            await controller.welcome()
            tokens = list(range(CHUNK_TOKENS))
            rig.serve(tokens)
            settle = SettleCommand(
                request_id="1", deadline_seconds=5, tokens=tokens_to_bytes(tokens)
            )
            reply = await controller.ask(settle)
            assert reply.facts == {MEMORY: CHUNK_TOKENS}
            assert controller.held[MEMORY] == set(rig.engine.tiers.keys(MEMORY))

    asyncio.run(scenario())


def test_a_controller_that_forgot_it_gets_its_pins_again():
    async def scenario():
        async with conversation() as (rig, controller):
            await controller.welcome()
            rig.serve(list(range(20)))
            await controller.ask(
                PinCommand(request_id="1", deadline_seconds=5, pin=ask(range(20), ttl_seconds=60))
            )
            controller.sequence = None
            await controller.send(Identify())
            await controller.welcome()
            assert [pin.tokens_pinned for pin in controller.pins] == [20]
            assert controller.pin_requests[0].tokens == ask(range(20)).tokens
            assert 0 < controller.pin_requests[0].ttl_seconds <= 60

    asyncio.run(scenario())


def test_an_expired_pin_is_released_by_itself():
    async def scenario():
        async with conversation() as (rig, controller):
            await controller.welcome()
            rig.serve(list(range(20)))
            await controller.ask(
                PinCommand(request_id="1", deadline_seconds=5, pin=ask(range(20), ttl_seconds=0.2))
            )
            while (await controller.next(Heartbeat)).tiers[0].pinned_bytes:
                pass
            assert len(rig.engine.tiers.pins) == 0

    asyncio.run(scenario())


def test_closing_says_goodbye():
    async def scenario():
        async with conversation() as (rig, controller):
            await controller.welcome()
            await asyncio.to_thread(rig.engine.close)
            await controller.next(Goodbye)

    asyncio.run(scenario())


def test_an_engine_starts_and_serves_without_its_controller():
    overrides = {"enable_controller": True, "controller_url": "tcp://127.0.0.1:9"}
    with Rig(overrides=overrides) as rig:
        rig.serve(list(range(20)))
        assert rig.hit(list(range(20))) == 20


def test_a_pin_ends_at_its_time_also_while_no_controller_is_there():
    async def scenario():
        async with conversation(overrides={"heartbeat_seconds": 30}) as (rig, controller):
            await controller.welcome()
            rig.serve(list(range(20)))
            await controller.ask(
                PinCommand(request_id="1", deadline_seconds=5, pin=ask(range(20), ttl_seconds=0.3))
            )
            await controller.send(Identify())
            while len(rig.engine.tiers.pins):
                await controller.next(Register)  # It asks again and again, and hears nothing.
            await controller.welcome()
            assert controller.pins == []

    asyncio.run(scenario())


def test_a_controller_that_asks_who_it_is_many_times_is_told_once():
    async def scenario():
        async with conversation() as (_, controller):
            await controller.welcome()
            for _ in range(20):
                await controller.send(Identify())
            await controller.send(HealthCommand(request_id="1", deadline_seconds=5))
            await controller.next(Reply)
            hellos = [m for m in controller.messages if isinstance(m, Register)]
            # The first, the one that was asked for, and one of the back-off at most.
            assert 2 <= len(hellos) <= 3

    asyncio.run(scenario())


class Queue:
    """A link whose queue takes nothing while it is full."""

    def __init__(self, *, full):
        self.full = full
        self.sent = []

    def send(self, message):
        if not self.full:
            self.sent.append(message)
        return not self.full


def test_a_pin_is_told_once_with_the_answer_to_its_command():
    with Rig() as rig:
        link, told = Queue(full=False), []
        agent = ControlAgent(
            rig.engine, link, instance_id="rig", heartbeat_seconds=1, pin_changed=told.append
        )
        agent._answer(PinCommand(request_id="1", deadline_seconds=5, pin=ask(range(20))))
        assert told == [link.sent[0].pin]
        agent._heartbeat(0.0)
        assert link.sent[1].pins == ()
        assert len(told) == 1


def test_pins_that_changed_are_told_again_when_the_telling_was_dropped():
    with Rig() as rig:
        link, told = Queue(full=True), []
        agent = ControlAgent(
            rig.engine, link, instance_id="rig", heartbeat_seconds=1, pin_changed=told.append
        )
        agent._answer(PinCommand(request_id="1", deadline_seconds=5, pin=ask(range(20))))
        agent._heartbeat(0.0)
        assert told == []
        link.full = False
        agent._heartbeat(0.0)
        assert [pin.pin_id for pin in link.sent[0].pins] == ["p"]
        assert told == list(link.sent[0].pins)
        agent._heartbeat(0.0)
        assert link.sent[1].pins == ()


def test_a_thousand_pins_are_told_whole_at_registration():
    async def scenario():
        async with conversation() as (rig, controller):
            await controller.welcome()
            for number in range(1000):
                with rig.engine.tiers.lock:
                    rig.engine.tiers.pins.pin(ask(range(number, number + 5), f"p{number}"))
            controller.sequence = None
            await controller.send(Identify())
            await controller.welcome()
            names = [f"p{number}" for number in range(1000)]
            assert [pin.pin_id for pin in controller.pins] == names
            assert [pin.pin_id for pin in controller.pin_requests] == names

    asyncio.run(scenario())


def test_pins_of_long_prompts_are_named_in_messages_of_a_bounded_length():
    with Rig() as rig:
        link = Queue(full=False)
        roll = Roll(rig.engine.tiers, link.send, "rig", 1)
        for number in range(3):
            rig.engine.tiers.pins.pin(ask(range(number, number + 20_000), f"p{number}"))
        roll.begin()
        while roll.under_way:
            assert roll.send_some()
        assert [len(part.pins) for part in link.sent] == [1, 1, 1]
        assert [part.last for part in link.sent] == [False, False, True]


def test_who_could_not_name_all_its_pins_registers_again(monkeypatch):
    send, lost = ZmqLink.send, []

    def lose_one(link, message):
        if isinstance(message, Held) and not lost:
            lost.append(message)
            return False
        return send(link, message)

    async def scenario():
        monkeypatch.setattr(ZmqLink, "send", lose_one)
        async with conversation() as (_, controller):
            hello = await controller.next(Register)
            await controller.send(
                Welcome(
                    instance_id=hello.instance_id, incarnation=hello.incarnation, ledger_id="ledger"
                )
            )
            await controller.welcome()
            assert lost

    asyncio.run(scenario())


def test_what_happens_while_a_snapshot_is_sent_is_told_behind_it(monkeypatch):
    monkeypatch.setattr(event_feed, "KEYS_AT_ONCE", 4)
    with Rig(chunks=40) as rig:
        tiers = rig.engine.tiers
        tiers.events.enable()
        link, controller = Queue(full=False), Controller(None)
        feed = EventFeed(tiers, link.send, "rig", 1)
        for base in range(0, 600, 16):
            rig.serve(list(range(base, base + 16)))
        feed.begin_snapshot()
        more = True
        base = 1000
        while more:
            more = feed.send_some()
            if base < 1200:
                # It comes, and makes another go, before and behind where the snapshot is.
                rig.serve(list(range(base, base + 16)))
                base += 16
        while feed.send_some():
            pass
        for message in link.sent:
            controller._apply(message)
        assert controller.held[MEMORY] == set(tiers.keys(MEMORY))
        assert sum(message.snapshot for message in link.sent) > 5
