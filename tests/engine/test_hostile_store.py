"""A store that answers nonsense, dies, or is asked at an awkward moment."""

from __future__ import annotations

import threading

import pytest

from lmcache_core.api import Capability, PutStatus
from lmcache_core.engine.storage.breaker import FIRST_PAUSE_SECONDS
from tests.engine.rig import CHUNK_TOKENS, FRAME_BYTES, SLOT_BYTES, Rig, storage_spec
from tests.engine.test_pins import MEMORY, ask
from tests.engine.test_storage_tier import (
    CHUNK,
    LONG,
    Watched,
    below,
    flood,
    rig_over,
    settle,
    settle_reads,
)


@pytest.fixture
def backend():
    backend = Watched()
    yield backend
    backend.gate.set()


def leave(*_):
    raise SystemExit(3)


def close_nothing(*_):
    return None


def no_leases(rig):
    memory = rig.engine.tiers.memory
    assert all(memory.index.get(key).leases is None for key in memory.residents)
    assert memory.residents.used_bytes == memory._pool.used_bytes
    assert memory._writing_bytes == memory._staged_bytes == 0
    return True


@pytest.mark.parametrize("nonsense", [leave, close_nothing, lambda *_: 7, lambda *_: [], max])
@pytest.mark.parametrize("method", ["put", "get", "remove"])
def test_nonsense_costs_a_hit_and_ends_no_thread(backend, method, nonsense):
    with rig_over(backend, storage_chunks=8) as rig:
        rig.serve(LONG)
        settle(rig)
        flood(rig, 4, base=1000)
        flood(rig, 8)
        settle(rig)
        setattr(backend, method, nonsense)
        rig.serve(LONG)
        tiers = rig.engine.tiers
        tiers.drop("dict", tiers.keys("dict"), force=False)
        settle(rig)
        settle_reads(rig)
        assert no_leases(rig)
        assert rig.hit(LONG) == len(LONG)
        assert tiers.storage[0].residents.used_bytes <= 8 * FRAME_BYTES


def test_a_store_that_recovers_is_written_to_again_though_nothing_is_read_from_it(backend):
    with rig_over(backend) as rig:
        now = 100.0
        rig.engine.tiers.storage[0].breaker._clock = lambda: now
        backend.fail = True
        rig.serve(CHUNK)
        settle(rig)
        assert not below(rig).healthy
        backend.fail = False
        now += FIRST_PAUSE_SECONDS
        # Nothing of this prompt is below; looking for it must not use up the
        # one call that may find the store well again.
        rig.serve([7000 + i for i in range(CHUNK_TOKENS)])
        settle(rig)
        assert below(rig).healthy
        assert below(rig).entries == 1


def test_a_reset_during_a_promotion_removes_no_frame(backend):
    with rig_over(backend) as rig:
        rig.serve(LONG)
        settle(rig)
        flood(rig)
        settle(rig)
        frames = backend.usage().frames
        backend.gate.clear()
        backend.entered.clear()
        name = rig.begin(LONG)
        assert backend.entered.wait(10)
        rig.engine.reset()
        backend.gate.set()
        settle_reads(rig)
        settle(rig)
        assert rig.engine.match(name, len(LONG)).tokens == 0
        rig.engine.finish(name)
        assert rig.engine.counters()["dict.damaged_frames"] == 0
        assert backend.usage().frames == frames
        assert no_leases(rig)


def test_one_read_serves_all_who_ask_for_it_while_it_is_under_way(backend):
    with rig_over(backend) as rig:
        rig.serve(LONG)
        settle(rig)
        flood(rig)
        settle(rig)
        backend.gate.clear()
        backend.gets = 0
        names = [rig.begin(LONG) for _ in range(5)]
        assert not rig.engine.match(names[1], len(LONG)).ready
        rig.engine.finish(names[0])
        backend.gate.set()
        for name in names[1:]:
            assert rig.wait_match(name, len(LONG)) == len(LONG)
            rig.engine.finish(name)
        assert backend.gets == 4
        assert no_leases(rig)


class Held(Watched):
    """Stops in ``put`` while the gate is closed."""

    def put(self, keys, frames, deadline):
        self.entered.set()
        self.gate.wait(30)
        return super().put(keys, frames, deadline)


def test_a_frame_written_for_the_old_epoch_is_bound_to_it():
    backend = Held()
    with rig_over(backend) as rig:
        namespace = rig.engine.tiers.namespace.digest()
        backend.gate.clear()
        rig.serve(LONG)
        assert backend.entered.wait(10)
        rig.engine.reset()
        backend.gate.set()
        settle(rig)
        assert {bytes(frame[104:136]) for frame in backend._store.frames.values()} == {namespace}


def test_a_chunk_that_is_queued_twice_is_written_and_counted_once():
    backend = Held()
    with rig_over(backend) as rig:
        tiers = rig.engine.tiers
        backend.gate.clear()
        rig.serve(CHUNK)
        assert backend.entered.wait(10)
        tiers.drop(MEMORY, tiers.keys(MEMORY), force=False)
        rig.serve(CHUNK)
        backend.gate.set()
        settle(rig)
        assert backend.puts == 1
        assert (below(rig).entries, below(rig).used_bytes) == (1, FRAME_BYTES)


def test_what_is_cleared_while_a_second_copy_waits_to_be_written_is_gone_and_known_to_be():
    backend = Held()
    with rig_over(backend) as rig:
        tiers = rig.engine.tiers
        backend.gate.clear()
        rig.serve(CHUNK)
        assert backend.entered.wait(10)
        # The chunk leaves memory and comes back: it is queued twice.
        tiers.drop(MEMORY, tiers.keys(MEMORY), force=False)
        rig.serve(CHUNK)
        tier = tiers.storage[0]
        first = threading.Event()
        holding = threading.Event()
        jobs = tier._writes._jobs
        writes, jobs.queue = list(jobs.queue), type(jobs.queue)()

        def between():
            first.set()
            holding.wait(10)

        with jobs.mutex:
            jobs.queue.extend([between, *writes])
        backend.gate.set()
        assert first.wait(10)
        assert tiers.drop("dict", tiers.keys("dict"), force=False) == CHUNK_TOKENS
        holding.set()
        settle(rig)
        assert set(tier.residents) == set(backend._store.frames)


def test_a_pin_in_a_store_is_met_by_the_frame_of_its_tail_and_by_no_longer_one(backend):
    with rig_over(backend) as rig:
        pins = rig.engine.tiers.pins
        tokens = ask(CHUNK[:8]).tokens
        from lmcache_core.api.pins import OnMissing

        pins.pin(ask(CHUNK[:8], location="dict", on_missing=OnMissing.RESERVE))
        rig.serve(CHUNK)
        settle(rig)
        held = rig.engine.tiers.covered(tokens, ask(CHUNK).scope)["dict"]
        assert pins.report("p").tokens_pinned == held == 0


def test_a_staged_chunk_takes_no_pinned_tails_place(backend):
    overrides = {"pin_share": 1.0}
    spec = storage_spec("dict", lambda _config, _context: backend, Capability.NONE)
    with Rig(chunks=2, storage=[spec], overrides=overrides) as rig:
        tiers = rig.engine.tiers
        other = [9000 + i for i in range(CHUNK_TOKENS)]
        rig.serve(CHUNK)
        settle(rig)
        tiers.drop(MEMORY, tiers.keys(MEMORY), force=False)
        rig.serve(CHUNK[:5])
        rig.serve(other)
        settle(rig)  # While it is written it cannot make room.
        for tokens, name in ((CHUNK[:5], "tail"), (other, "other")):
            assert tiers.pins.pin(ask(tokens, name)).state.value == "active"
        assert rig.hit(CHUNK) == 5
        settle_reads(rig)
        assert tiers.pins.report("tail").tokens_pinned == 5
        assert rig.hit(CHUNK[:5]) == 5
        tiers.pins.unpin("other", 1)
        assert rig.hit(CHUNK) == CHUNK_TOKENS, "there is room for it beside the tail now"
        assert tiers.pins.report("tail").tokens_pinned == 5
        assert no_leases(rig)


def test_a_store_takes_the_place_of_an_equal_chunk_that_is_only_staged(backend):
    overrides = {"pin_share": 1.0}
    spec = storage_spec("dict", lambda _config, _context: backend, Capability.NONE)
    with Rig(chunks=2, storage=[spec], overrides=overrides) as rig:
        tiers = rig.engine.tiers
        other = [9000 + i for i in range(2 * CHUNK_TOKENS)]
        rig.serve(CHUNK)
        settle(rig)
        rig.serve(other)
        settle(rig)
        assert tiers.pins.pin(ask(other, "other")).tokens_pinned == len(other)
        name = rig.begin(CHUNK)
        assert rig.wait_match(name, CHUNK_TOKENS) == CHUNK_TOKENS
        assert tiers.memory._staged_bytes == SLOT_BYTES
        tiers.pins.unpin("other", 1)
        blocks = rig.blocks_for(CHUNK_TOKENS)
        load = rig.engine.plan_load(name, 0, CHUNK_TOKENS, [blocks])
        store = rig.engine.plan_store(name, CHUNK_TOKENS, [blocks], final=True)
        rig.load(load)
        rig.store(store)
        rig.engine.acknowledge([store.job_id])
        rig.engine.acknowledge([load.job_id])
        rig.engine.finish(name)
        settle(rig)
        assert tiers.status()[0].entries == 2
        assert rig.serve(CHUNK) == CHUNK_TOKENS - 1
        assert no_leases(rig)


def test_what_comes_after_its_requests_patience_is_nobodys(backend):
    overrides = {"promotion_timeout_seconds": 0.05, "pin_share": 1.0}
    with rig_over(backend, staging_chunks=4, overrides=overrides) as rig:
        tiers = rig.engine.tiers
        rig.serve(LONG)
        settle(rig)
        flood(rig, 8)
        for number in range(8):
            tokens = [50_000 + number * 100 + i for i in range(CHUNK_TOKENS)]
            tiers.pins.pin(ask(tokens, f"p{number}"))
        backend.gate.clear()
        name = rig.begin(LONG)
        assert rig.wait_match(name, len(LONG)) == 0
        backend.gate.set()
        settle_reads(rig)
        assert tiers.memory._staged_bytes == 0, "the request runs on for long without it"
        rig.engine.finish(name)
        assert no_leases(rig)


def test_a_chunk_that_was_fetched_once_counts_as_host_memorys_from_then_on(backend):
    with rig_over(backend) as rig:
        rig.serve(LONG)
        settle(rig)
        flood(rig)
        for location in ("dict", MEMORY):
            name = rig.begin(LONG)
            rig.wait_match(name, len(LONG))
            assert rig.engine.match(name, len(LONG)).by_location == {location: len(LONG)}
            rig.engine.finish(name)


class Damaging(Watched):
    """Writes the first frame it is given wrong, and says that it is there ever after."""

    def put(self, keys, frames, deadline):
        if self.puts:
            return super().put(keys, frames, deadline)
        wrong = bytearray(frames[0])
        wrong[-1] ^= 1
        return super().put(keys, [memoryview(wrong)], deadline)


def test_a_damaged_frame_is_not_taken_for_the_good_one_that_is_written_after_it():
    backend = Damaging()
    with rig_over(backend) as rig:
        rig.serve(CHUNK)
        settle(rig)
        flood(rig)
        settle(rig)
        assert rig.serve(CHUNK) == 0
        settle(rig)
        flood(rig)
        assert rig.serve(CHUNK) == CHUNK_TOKENS - 1


def test_a_full_store_gives_up_one_frame_for_another_and_no_more():
    class Tight(Watched):
        full = False

        def put(self, keys, frames, deadline):
            if self.full:
                return [PutStatus.FULL]
            return super().put(keys, frames, deadline)

    backend = Tight()
    with rig_over(backend) as rig:
        rig.serve(LONG)
        settle(rig)
        backend.full = True
        rig.serve([7000 + i for i in range(CHUNK_TOKENS)])
        settle(rig)
        assert below(rig).entries == 3
