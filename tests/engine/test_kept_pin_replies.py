"""Answers to pin commands come once what they say is durable, over real ZeroMQ."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from lmcache_core.api import Capability
from lmcache_core.api.frames import is_record
from lmcache_core.api.messages import (
    HealthCommand,
    Heartbeat,
    PinCommand,
    RenewCommand,
    UnpinCommand,
)
from lmcache_core.api.pins import OnMissing, PinRenewal, PinState
from lmcache_core.engine.frames.record import parse
from lmcache_core.engine.pins.keeping import LEDGER
from lmcache_core.engine.storage import records
from lmcache_core.errors import BackendError
from lmcache_core.testing.dict_backend import DictBackend, DictStore
from tests.engine.rig import storage_spec
from tests.engine.test_agent import conversation
from tests.engine.test_pins import MEMORY, ask
from tests.engine.test_storage_tier import LONG, settle

DISK = "Durable"


class GatedBackend(DictBackend):
    """A durable store whose syncs a test lets through or fails."""

    def __init__(self, store):
        super().__init__(None, None, store)
        self.go = threading.Event()
        self.go.set()
        self.failure = None

    def sync(self, deadline):
        assert self.go.wait(20)
        if self.failure:
            raise BackendError(self.failure)


@contextlib.asynccontextmanager
async def durable(store=None, **fields):
    backend = GatedBackend(store or DictStore())
    capabilities = Capability.DURABLE | Capability.SYNC | Capability.SCAN
    spec = storage_spec(DISK, lambda _config, _context: backend, capabilities)
    async with conversation(storage=[spec], **fields) as (rig, controller):
        rig.serve(LONG)
        settle(rig)
        try:
            yield rig, controller, backend
        finally:
            backend.go.set()


def kept_names(backend):
    """Names of the records that are there."""
    frames = backend._store.frames.items()
    return {parse(memoryview(frame), key).name for key, frame in frames if is_record(key)}


def command(number, *, seconds=10, **fields):
    fields.setdefault("location", DISK)
    pin = ask(LONG, **fields)
    return PinCommand(request_id=str(number), deadline_seconds=seconds, pin=pin)


def renewal(number, *, seconds=10, version=2):
    """Of the version before."""
    change = PinRenewal(pin_id="p", version=version, since=version - 1, location=DISK)
    return RenewCommand(request_id=str(number), deadline_seconds=seconds, renewal=change)


def release(number, *, seconds=10, version=1):
    return UnpinCommand(
        request_id=str(number), deadline_seconds=seconds, pin_id="p", version=version
    )


async def answers_health(controller, number):
    """The agent goes on answering; return its answer, which is the next one there is."""
    reply = await controller.ask(HealthCommand(request_id=f"h{number}", deadline_seconds=5))
    assert reply.request_id == f"h{number}"


@pytest.mark.parametrize("made", [command, renewal, release])
def test_rule_7_the_answer_waits_for_the_sync_and_nothing_else_does(made):
    async def scenario():
        async with durable() as (rig, controller, backend):
            await controller.welcome()
            if made is not command:
                await controller.ask(command(1))
            backend.go.clear()
            await controller.send(made(2))
            await answers_health(controller, 2)
            rig.serve(list(range(700, 720)))
            beat = await controller.next(Heartbeat)
            assert all(pin.tokens_pinned == 0 for pin in beat.pins)
            await answers_health(controller, 3)
            backend.go.set()
            reply = await controller.next_reply("2")
            assert (reply.error, reply.num_tokens) == (None, len(LONG))
            if made is not release:
                assert reply.pin.state is PinState.ACTIVE
            assert kept_names(backend) == ({LEDGER} if made is release else {LEDGER, "p"})

    asyncio.run(scenario())


@pytest.mark.parametrize("made", [command, renewal, release])
def test_what_does_not_become_durable_in_time_is_said_and_comes_later(made):
    async def scenario():
        async with durable() as (_, controller, backend):
            await controller.welcome()
            if made is not command:
                await controller.ask(command(1))
            backend.go.clear()
            await controller.send(made(2, seconds=0.2))
            reply = await controller.next_reply("2")
            assert (reply.error, reply.num_tokens, reply.pin) == ("deadline", 0, None)
            assert "durable" in reply.detail
            backend.go.set()
            reply = await controller.ask(made(3, version=3))
            assert reply.error is None
            assert reply.num_tokens == (0 if made is release else len(LONG))

    asyncio.run(scenario())


@pytest.mark.parametrize("made", [command, renewal, release])
def test_a_sync_that_fails_is_said_with_its_reason_and_tried_again(made, monkeypatch):
    monkeypatch.setattr(records, "RETRY_SECONDS", 0.05)

    async def scenario():
        async with durable() as (_, controller, backend):
            await controller.welcome()
            if made is not command:
                await controller.ask(command(1))
            backend.failure = "the disk is on fire"
            reply = await controller.ask(made(2))
            assert reply.error == "internal"
            assert "on fire" in reply.detail
            backend.failure = None
            if made is not release:
                while True:
                    beat = await controller.next(Heartbeat)
                    if any(pin.state is PinState.ACTIVE for pin in beat.pins):
                        return
            assert (await controller.ask(made(3))).error is None

    asyncio.run(scenario())


def test_a_pin_in_host_memory_waits_for_no_sync_and_needs_no_disk():
    async def scenario():
        async with durable() as (_, controller, backend):
            await controller.welcome()
            backend.go.clear()
            reply = await controller.ask(command(1, location=MEMORY))
            assert reply.pin.state is PinState.ACTIVE
            assert "p" in kept_names(backend)
            backend.failure = "the disk is on fire"
            backend.go.set()
            reply = await controller.ask(command(2, location=MEMORY, version=2))
            assert (reply.error, reply.num_tokens) == (None, len(LONG))

    asyncio.run(scenario())


def test_a_reservation_is_active_in_a_heartbeat_once_it_is_durable():
    async def scenario():
        async with durable() as (rig, controller, backend):
            await controller.welcome()
            tokens = list(range(800, 832))
            pin = ask(tokens, location=DISK, on_missing=OnMissing.RESERVE)
            reply = await controller.ask(PinCommand(request_id="1", deadline_seconds=5, pin=pin))
            assert reply.pin.state is PinState.PENDING
            backend.go.clear()
            rig.serve(tokens)
            settle(rig)
            for _ in range(3):
                beat = await controller.next(Heartbeat)
                assert all(report.state is PinState.PENDING for report in beat.pins)
            backend.go.set()
            while not any(report.state is PinState.ACTIVE for report in beat.pins):
                beat = await controller.next(Heartbeat)

    asyncio.run(scenario())


def test_pins_that_are_found_late_are_told_of(monkeypatch):
    store, found = DictStore(), threading.Event()
    take = records.TierRecords.take_in

    def late(self, *args):
        assert found.wait(20)
        take(self, *args)

    async def scenario():
        async with durable(store) as (_, controller, _backend):
            await controller.welcome()
            assert (await controller.ask(command(1))).error is None
        monkeypatch.setattr(records.TierRecords, "take_in", late)
        monkeypatch.setattr("lmcache_core.engine.storage.tier.RECOVER_SECONDS", 0.01)
        backend = GatedBackend(store)
        capabilities = Capability.DURABLE | Capability.SYNC | Capability.SCAN
        spec = storage_spec(DISK, lambda _config, _context: backend, capabilities)
        async with conversation(storage=[spec]) as (_, controller):
            await controller.welcome()
            assert controller.pin_requests == []
            found.set()
            controller.sequence = None
            await controller.welcome()
            assert [pin.pin_id for pin in controller.pin_requests] == ["p"]

    asyncio.run(scenario())
