"""A store that other engines use, too: asked for what nobody here has put there."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest

from lmcache_core.api import BackendContext, Capability, PutStatus
from lmcache_core.api.pins import OnMissing, PinState
from lmcache_core.engine.storage import tier as storage_tier
from lmcache_core.engine.storage.breaker import FIRST_PAUSE_SECONDS
from lmcache_core.errors import BackendError
from lmcache_core.testing import DictBackend, DictConfig, DictStore
from tests.engine.rig import CHUNK_TOKENS, FRAME_BYTES, Rig, storage_spec
from tests.engine.test_hostile_store import no_leases
from tests.engine.test_pins import ask
from tests.engine.test_storage_tier import LONG, below, flood, settle, settle_reads

NAME = "shared"


class Shared(DictBackend):
    """One engine's way to a store; counts what it is asked, and lies and stalls when told to."""

    def __init__(self, store: DictStore) -> None:
        super().__init__(DictConfig(), BackendContext(instance_id="rig", tier=NAME), store)
        self.asked: list[int] = []
        self.removed = 0
        self.gate = threading.Event()
        self.gate.set()
        self.answer = super().stat

    def stat(self, keys, deadline):
        self.asked.append(len(keys))
        self.gate.wait(30)
        return self.answer(keys, deadline)

    def remove(self, keys, deadline):
        self.removed += len(keys)
        return super().remove(keys, deadline)


class Engines:
    """Engines over one store, each with a memory of its own."""

    def __init__(self, stack: ExitStack) -> None:
        self.store = DictStore()
        self.stores: list[Shared] = []
        self._stack = stack

    def start(self, *, before: Sequence[object] = (), **fields) -> tuple[Rig, Shared]:
        backend = Shared(self.store)
        self.stores.append(backend)
        spec = storage_spec(NAME, lambda *_: backend, Capability.SHARED | Capability.SELF_EVICTING)
        rig = self._stack.enter_context(Rig(storage=[*before, spec], **fields))
        return rig, backend


@pytest.fixture
def engines() -> Iterator[Engines]:
    with ExitStack() as stack:
        engines = Engines(stack)
        yield engines
        for backend in engines.stores:
            backend.gate.set()


@pytest.fixture
def filled(engines: Engines) -> Engines:
    """A store with the four chunks of one prompt, put there by an engine that has stopped."""
    with ExitStack() as stack:
        first = Engines(stack)
        first.store = engines.store
        rig, _ = first.start()
        rig.serve(LONG)
        settle(rig)
    return engines


def test_one_engine_hits_what_another_has_computed(filled):
    rig, backend = filled.start()
    name = rig.begin(LONG)
    assert rig.wait_match(name, len(LONG)) == len(LONG)
    assert rig.engine.match(name, len(LONG)).by_location == {NAME: len(LONG)}
    rig.engine.finish(name)
    assert rig.serve(LONG) == len(LONG) - 1
    assert backend.asked == [4]
    counters = rig.engine.counters()
    assert (counters[f"{NAME}.asked_frames"], counters[f"{NAME}.found_frames"]) == (4, 4)
    assert no_leases(rig)


def test_a_whole_prompt_is_asked_for_in_one_call_and_only_what_is_not_known(filled):
    rig, backend = filled.start(chunks=64)
    longer = [*LONG, *range(1000, 1000 + 28 * CHUNK_TOKENS)]
    assert rig.serve(longer) == len(LONG)
    assert backend.asked == [32]
    # All of it is in memory now, and nobody has to be asked.
    assert rig.serve(longer) == len(longer) - 1
    assert backend.asked == [32]


def test_what_memory_has_is_continued_from_the_store(filled):
    rig, backend = filled.start()
    half = LONG[: 2 * CHUNK_TOKENS]
    backend.answer = lambda keys, _: [None] * len(keys)
    rig.serve(half)
    backend.answer = super(Shared, backend).stat
    backend.asked.clear()
    assert rig.serve(LONG) == len(LONG) - 1
    assert backend.asked == [2]


def test_a_part_that_is_there_is_a_part_of_the_hit(filled):
    keys = list(filled.store.frames)
    del filled.store.frames[keys[2]]
    rig, _ = filled.start()
    assert rig.serve(LONG) == 2 * CHUNK_TOKENS


def test_two_engines_that_compute_one_prompt_leave_one_whole_frame_of_each_chunk(engines):
    (one, _), (other, _) = engines.start(), engines.start()
    names = [one.begin(LONG), other.begin(LONG)]
    for rig, name in zip((one, other), names, strict=True):
        assert rig.wait_match(name, len(LONG)) == 0
    for rig, name in zip((one, other), names, strict=True):
        tables = rig.tables_for(len(LONG))
        rig.compute(tables, LONG, rig.engine._requests[name].scope)
        job = rig.engine.plan_store(name, len(LONG), tables, final=True)
        rig.store(job)
        rig.engine.acknowledge([job.job_id])
        rig.engine.finish(name)
    for rig in (one, other):
        settle(rig)
        assert below(rig).entries == 4
    assert len(engines.store.frames) == 4
    third, _ = engines.start()
    assert third.serve(LONG) == len(LONG) - 1


def test_what_the_store_has_dropped_meanwhile_is_a_miss(filled):
    rig, _ = filled.start()
    assert rig.hit(LONG) == len(LONG)
    flood(rig)
    filled.store.frames.clear()
    settle(rig)
    assert rig.serve(LONG) == 0
    settle(rig)
    assert rig.engine.counters()[f"{NAME}.missing_frames"] == 4
    flood(rig)
    assert rig.serve(LONG) == len(LONG) - 1


def raising(*_):
    raise BackendError("down")


def leave(*_):
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("answer", "failures"),
    [
        (raising, 1),
        (leave, 1),
        (lambda *_: 7, 1),
        (lambda *_: None, 1),
        (lambda keys, _: [FRAME_BYTES] * (len(keys) + 1), 1),
        (lambda keys, _: ["long"] * len(keys), 0),
        (lambda keys, _: [-1] * len(keys), 0),
        (lambda keys, _: [True] * len(keys), 0),
        (lambda keys, _: [0] * len(keys), 0),
        (lambda keys, _: [1 << 62] * len(keys), 0),
        (lambda keys, _: [FRAME_BYTES] * len(keys), 0),
        (lambda keys, _: [5] * len(keys), 0),
    ],
)
def test_nonsense_costs_a_hit_and_ends_no_thread(engines, answer, failures):
    rig, backend = engines.start()
    backend.answer = answer
    assert rig.serve(LONG) == 0
    settle_reads(rig)
    settle(rig)
    assert rig.engine.counters()[f"{NAME}.ask_failures"] == failures
    backend.answer = super(Shared, backend).stat
    assert rig.serve(LONG) == len(LONG) - 1
    assert no_leases(rig)


def test_a_store_that_stalls_costs_one_wait_and_then_none_until_it_is_back(filled):
    rig, backend = filled.start(overrides={"promotion_timeout_seconds": 0.2})
    now = 100.0
    breaker = rig.engine.tiers.storage[0].breaker
    breaker._clock = lambda: now
    backend.gate.clear()
    begin = time.monotonic()
    assert rig.hit(LONG) == 0
    assert 0.15 < time.monotonic() - begin < 2
    assert not breaker.healthy
    begin = time.monotonic()
    for _ in range(20):
        assert rig.hit(LONG) == 0
    assert time.monotonic() - begin < 20 * 0.01
    assert backend.asked == [4]
    backend.gate.set()
    settle_reads(rig)
    now += FIRST_PAUSE_SECONDS
    assert rig.hit(LONG) == len(LONG)
    assert breaker.healthy
    assert no_leases(rig)


def test_an_answer_that_nobody_waits_for_any_more_leaves_no_lease(filled):
    rig, backend = filled.start()
    backend.gate.clear()
    name = rig.begin(LONG)
    assert not rig.engine.match(name, len(LONG)).ready
    rig.engine.finish(name)
    backend.gate.set()
    settle_reads(rig)
    assert no_leases(rig)
    assert below(rig).entries == 4
    assert rig.hit(LONG) == len(LONG)


def test_a_reset_while_the_store_is_asked_makes_no_old_frame_a_hit(filled):
    rig, backend = filled.start()
    backend.gate.clear()
    name = rig.begin(LONG)
    rig.engine.reset()
    backend.gate.set()
    assert rig.wait_match(name, len(LONG)) == 0
    rig.engine.finish(name)
    assert rig.serve(LONG) == 0
    settle(rig)
    assert len(filled.store.frames) == 4
    assert no_leases(rig)


def test_a_store_that_could_not_be_opened_holds_up_nobody(engines):
    backend = Shared(engines.store)

    def fail():
        raise BackendError("away")

    backend.open = fail
    spec = storage_spec(NAME, lambda *_: backend, Capability.SHARED)
    with Rig(storage=[spec]) as rig:
        begin = time.monotonic()
        assert rig.serve(LONG) == 0
        assert time.monotonic() - begin < 1
        assert backend.asked == []


def test_the_bound_is_of_what_is_remembered_and_nothing_is_removed(filled):
    rig, backend = filled.start(storage_chunks=6)
    flood(rig, 20)
    settle(rig)
    assert len(filled.store.frames) == 24
    assert backend.removed == 0
    assert below(rig).used_bytes <= 6 * FRAME_BYTES
    assert rig.serve(LONG) == len(LONG) - 1


def test_without_a_bound_no_more_than_so_many_frames_are_remembered(filled, monkeypatch):
    monkeypatch.setattr(storage_tier, "REMEMBERED_FRAMES", 6)
    rig, backend = filled.start()
    flood(rig, 20)
    settle(rig)
    assert below(rig).entries == 6
    assert len(filled.store.frames) == 24
    assert rig.serve(LONG) == len(LONG) - 1
    assert backend.removed == 0


def test_a_full_store_is_left_as_it_is(engines):
    rig, backend = engines.start()
    rig.serve(LONG)
    settle(rig)
    backend.put = lambda keys, frames, deadline: [PutStatus.FULL] * len(keys)
    flood(rig, 4)
    settle(rig)
    assert rig.engine.counters()[f"{NAME}.put_failures"] == 4
    assert backend.removed == 0
    assert len(engines.store.frames) == 4


def test_a_tier_between_is_asked_first_and_the_store_for_the_rest(filled):
    own = DictBackend(DictConfig(), BackendContext(instance_id="rig", tier="own"))
    spec = storage_spec("own", lambda *_: own, DictBackend.capabilities)
    rig, backend = filled.start(before=[spec])
    name = rig.begin(LONG)
    assert rig.wait_match(name, len(LONG)) == len(LONG)
    assert rig.engine.match(name, len(LONG)).by_location == {NAME: len(LONG)}
    rig.engine.finish(name)
    assert backend.asked == [4]


def test_a_pin_says_that_the_store_may_drop_what_is_there(filled):
    rig, _ = filled.start()
    pins = rig.engine.tiers.pins
    report = pins.pin(ask(LONG, location=NAME, on_missing=OnMissing.RESERVE))
    assert (report.state, report.tokens_pinned) == (PinState.PENDING, 0)
    assert rig.hit(LONG) == len(LONG)
    report = pins.report("p")
    assert (report.state, report.tokens_pinned, report.first_missing) == (PinState.PARTIAL, 0, 0)
    assert report.reason == "best effort: 64 tokens are there and the store may drop them"
    assert pins.unpin("p", 1) == 0


def test_a_pin_above_a_shared_store_holds_as_ever(filled):
    rig, _ = filled.start()
    assert rig.hit(LONG) == len(LONG)
    pins = rig.engine.tiers.pins
    assert pins.pin(ask(LONG)).state is PinState.ACTIVE
    assert pins.unpin("p", 1) == len(LONG)
