"""Moving and copying chunks between the tiers of one engine."""

from __future__ import annotations

import threading
import time

import pytest

from lmcache_core.api import Capability
from lmcache_core.api.messages import MoveCommand, PinCommand
from lmcache_core.engine.control.commands import CommandRunner
from lmcache_core.keys import Scope, tokens_to_bytes
from tests.engine.rig import CHUNK_TOKENS, SLOT_BYTES, Rig, kv, storage_spec
from tests.engine.test_pins import MEMORY, ask
from tests.engine.test_storage_tier import Watched

CHUNKS = 16
LONG = list(range(4 * CHUNK_TOKENS))


@pytest.fixture
def stores():
    stores = {"dict": Watched(), "second": Watched()}
    yield stores
    for store in stores.values():
        store.gate.set()


@pytest.fixture
def rig(stores):
    specs = [
        storage_spec(name, lambda _config, _context, store=store: store, Capability.NONE)
        for name, store in stores.items()
    ]
    with Rig(chunks=CHUNKS, storage=specs, storage_chunks=32) as made:
        yield made


class Mover:
    """What the control agent does with a command that takes its time."""

    def __init__(self, rig):
        self.runner = CommandRunner(rig.engine, "rig", 1)
        self.woken = threading.Event()
        rig.engine.settled = self.woken.set
        self.number = 0

    def command(self, source, target, tokens, **fields):
        self.number += 1
        return MoveCommand(
            request_id=str(self.number),
            deadline_seconds=10,
            location=source,
            target=target,
            tokens=tokens_to_bytes(tokens),
            **fields,
        )

    def move(self, *args, seconds=10, **fields):
        command = self.command(*args, **fields)
        deadline = time.monotonic() + seconds
        while self.runner.must_wait(command):
            if not self.woken.wait(max(0.0, deadline - time.monotonic())):
                break
            self.woken.clear()
        return self.runner.run(command)


def held(rig, location, tokens=LONG, scope=None):
    covered = rig.engine.tiers.covered(tokens_to_bytes(tokens), scope or Scope())
    return covered[location]


def settle(rig):
    """Wait until everything written so far is below."""
    for tier in rig.engine.tiers.storage:
        done = threading.Event()
        assert tier._writes.submit(done.set)
        assert done.wait(10)


def drop(rig, location):
    tiers = rig.engine.tiers
    tiers.drop(location, tiers.keys(location), force=True)


def test_from_memory_to_a_store_and_back(rig):
    mover = Mover(rig)
    rig.serve(LONG)
    settle(rig)
    drop(rig, "dict")
    drop(rig, "second")
    assert mover.move(MEMORY, "dict", LONG).num_tokens == len(LONG)
    assert (held(rig, MEMORY), held(rig, "dict")) == (0, len(LONG))
    reply = mover.move("dict", MEMORY, LONG)
    assert (reply.num_tokens, reply.error) == (len(LONG), None)
    assert (held(rig, MEMORY), held(rig, "dict")) == (len(LONG), 0)
    assert rig.serve(LONG) == len(LONG) - 1


def test_from_one_store_to_another(rig, stores):
    mover = Mover(rig)
    rig.serve(LONG)
    settle(rig)
    drop(rig, "second")
    drop(rig, MEMORY)
    settle(rig)
    assert mover.move("dict", "second", LONG).num_tokens == len(LONG)
    assert (held(rig, "dict"), held(rig, "second")) == (0, len(LONG))
    assert rig.serve(LONG) == len(LONG) - 1


def test_a_copy_leaves_the_old_one(rig):
    mover = Mover(rig)
    rig.serve(LONG)
    settle(rig)
    drop(rig, "dict")
    assert mover.move(MEMORY, "dict", LONG, keep=True).num_tokens == len(LONG)
    assert held(rig, MEMORY) == held(rig, "dict") == len(LONG)


def test_only_what_is_there_is_moved_and_counted(rig):
    mover = Mover(rig)
    rig.serve(LONG[: 2 * CHUNK_TOKENS])
    reply = mover.move(MEMORY, "dict", LONG)
    assert (reply.num_tokens, reply.error) == (2 * CHUNK_TOKENS, None)
    assert mover.move(MEMORY, "dict", [7] * 40).num_tokens == 0


def test_a_tail_of_half_a_block_stays_in_memory(rig):
    mover = Mover(rig)
    tokens = LONG[: CHUNK_TOKENS + 3]
    rig.serve(tokens)
    assert mover.move(MEMORY, "dict", tokens).num_tokens == CHUNK_TOKENS
    assert rig.engine.tiers.memory.residents.used_bytes > 0


def test_what_is_pinned_is_moved_by_nobody(rig):
    mover = Mover(rig)
    rig.serve(LONG)
    assert rig.engine.tiers.pins.pin(ask(LONG, pin_id="p")).tokens_pinned == len(LONG)
    reply = mover.move(MEMORY, "dict", LONG)
    assert reply.error == "conflict"
    assert "pinned in LocalCPUBackend by p" in reply.detail
    assert held(rig, MEMORY) == len(LONG)
    assert mover.move(MEMORY, "dict", LONG, keep=True).num_tokens == len(LONG)


def test_an_unknown_tier_is_named_with_those_there_are(rig):
    reply = Mover(rig).move(MEMORY, "nowhere", LONG)
    assert reply.error == "unknown_location"
    assert "second" in reply.detail


def test_a_store_into_memory_that_is_under_way_is_waited_for(rig):
    mover = Mover(rig)
    name = rig.begin(LONG)
    blocks = rig.blocks_for(len(LONG))
    rig._compute(blocks, kv(LONG), len(LONG))
    job = rig.engine.plan_store(name, len(LONG), [blocks], final=True)
    command = mover.command(MEMORY, "dict", LONG)
    assert mover.runner.must_wait(command)
    rig.store(job)
    rig.engine.acknowledge([job.job_id])
    deadline = time.monotonic() + 10
    while mover.runner.must_wait(command):
        assert mover.woken.wait(max(0.0, deadline - time.monotonic()))
        mover.woken.clear()
    assert mover.runner.run(command).num_tokens == len(LONG)
    assert held(rig, MEMORY) == 0


def test_a_store_that_fails_moves_nothing_and_takes_nothing(rig, stores):
    mover = Mover(rig)
    rig.serve(LONG)
    settle(rig)
    drop(rig, "dict")
    settle(rig)
    stores["dict"].fail = True
    reply = mover.move(MEMORY, "dict", LONG)
    assert reply.num_tokens == 0
    assert held(rig, MEMORY) == len(LONG)
    assert rig.serve(LONG) == len(LONG) - 1


def test_a_store_that_stalls_is_said_at_the_deadline_and_moves_on_behind(rig, stores):
    mover = Mover(rig)
    rig.serve(LONG)
    settle(rig)
    drop(rig, MEMORY)
    stores["dict"].gate.clear()
    reply = mover.move("dict", MEMORY, LONG, seconds=0.2)
    assert reply.error == "deadline"
    assert reply.facts == {"moved_tokens": 0, "asked_tokens": len(LONG)}
    stores["dict"].gate.set()
    deadline = time.monotonic() + 10
    while held(rig, MEMORY) < len(LONG):
        assert time.monotonic() < deadline
    with rig.engine.tiers.lock:
        memory = rig.engine.tiers.memory
        assert all(memory.index[key].leases is None for key in memory.residents)


def test_where_memory_is_pinned_what_fits_is_moved_up(rig):
    mover = Mover(rig)
    rig.serve(LONG)
    settle(rig)
    drop(rig, MEMORY)
    rig.engine.tiers.memory.residents.pin_limit_bytes = CHUNKS * SLOT_BYTES
    pinned = [90_000 + number for number in range((CHUNKS - 1) * CHUNK_TOKENS)]
    rig.serve(pinned)
    settle(rig)
    pin = PinCommand(request_id="p", deadline_seconds=1, pin=ask(pinned))
    assert mover.runner.run(pin).num_tokens == len(pinned)
    reply = mover.move("dict", MEMORY, LONG)
    assert (reply.num_tokens, reply.error) == (CHUNK_TOKENS, None)
    assert held(rig, MEMORY) == CHUNK_TOKENS
    assert held(rig, MEMORY, pinned) == len(pinned)
