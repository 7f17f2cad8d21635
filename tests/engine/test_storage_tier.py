"""A storage tier below host memory: written through, promoted, never trusted."""

from __future__ import annotations

import threading

import pytest

from lmcache_core.api import BackendContext, Capability, Deadline, PutStatus
from lmcache_core.api.connector import KVGroup
from lmcache_core.api.pins import Renew
from lmcache_core.engine.cache import promotion
from lmcache_core.engine.chunks.entry import Entry
from lmcache_core.engine.chunks.geometry import Geometry
from lmcache_core.engine.chunks.piece import Piece
from lmcache_core.engine.frames.frame import FrameSeal
from lmcache_core.engine.frames.sealer import Sealing
from lmcache_core.engine.storage import tier as storage_tier
from lmcache_core.errors import BackendError
from lmcache_core.keys import Scope
from lmcache_core.memory import Slot
from lmcache_core.testing import DictBackend, DictConfig
from tests.engine.rig import CHUNK_TOKENS, FRAME_BYTES, SLOT_BYTES, Rig, storage_spec
from tests.engine.test_pins import ask

CHUNK = list(range(CHUNK_TOKENS))
LONG = list(range(4 * CHUNK_TOKENS))


def flood(rig, chunks=20, base=50_000):
    for start in range(chunks):
        rig.serve([base + start * 100 + i for i in range(CHUNK_TOKENS)])


def settle(rig):
    """Wait until everything written so far is below, and what had to go for it further down."""
    for tier in rig.engine.tiers.storage:
        done = threading.Event()
        assert tier._writes.submit(done.set)
        assert done.wait(10)


def settle_reads(rig):
    """Wait until everything asked of the stores so far has been answered."""
    for tier in rig.engine.tiers.storage:
        met = threading.Barrier(storage_tier.READERS + 1)
        for _ in range(storage_tier.READERS):
            assert tier._reads.submit(met.wait)
        met.wait(10)


class Watched(DictBackend):
    """Counts, fails, stalls and lies when it is told to."""

    def __init__(self) -> None:
        super().__init__(DictConfig(), BackendContext(instance_id="rig", tier="dict"))
        self.gets = self.puts = 0
        self.fail = False
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.after_get = lambda keys, buffers: None

    def put(self, keys, frames, deadline):
        self.puts += len(keys)
        if self.fail:
            raise BackendError("down")
        return super().put(keys, frames, deadline)

    def get(self, keys, buffers, deadline):
        self.gets += len(keys)
        self.entered.set()
        self.gate.wait(30)
        if self.fail:
            raise OSError("a stranger's error")
        lengths = super().get(keys, buffers, deadline)
        self.after_get(keys, buffers)
        return lengths


@pytest.fixture
def backend():
    backend = Watched()
    yield backend
    backend.gate.set()


def rig_over(backend, **fields):
    spec = storage_spec("dict", lambda _config, _context: backend, Capability.NONE)
    return Rig(chunks=8, storage=[spec], **fields)


@pytest.fixture
def rig(backend):
    with rig_over(backend) as rig:
        yield rig
        backend.gate.set()


def below(rig):
    return rig.engine.tiers.status()[1]


def test_whole_chunks_are_written_through_and_come_back(rig):
    rig.serve(LONG)
    settle(rig)
    assert below(rig).entries == 4
    assert below(rig).used_bytes == 4 * FRAME_BYTES
    flood(rig)
    name = rig.begin(LONG)
    assert rig.wait_match(name, len(LONG)) == len(LONG)
    assert rig.engine.match(name, len(LONG)).by_location == {"dict": len(LONG)}
    rig.engine.finish(name)
    assert rig.serve(LONG) == len(LONG) - 1


def test_what_is_written_of_a_prompt_too_long_for_the_bound_is_its_beginning(rig, backend):
    tokens = list(range(7 * CHUNK_TOKENS))
    rig.serve(tokens)
    settle(rig)
    assert 0 < below(rig).entries < 7
    chain = rig.engine.tiers.chain_of(ask(tokens).tokens, Scope())
    written = [key in rig.engine.tiers.storage[0].residents for key in chain.keys]
    assert written == sorted(written, reverse=True)


def test_a_tail_that_does_not_fill_its_block_never_leaves_host_memory(rig, backend):
    rig.serve(list(range(CHUNK_TOKENS + 6)))
    rig.serve(list(range(900, 900 + 8)))
    settle(rig)
    assert backend.puts == 2, "the whole chunk, and the tail of two full blocks"
    assert below(rig).entries == 2


def test_what_is_below_already_is_not_written_again(rig, backend):
    rig.serve(CHUNK)
    settle(rig)
    flood(rig)
    settle(rig)
    puts = backend.puts
    assert rig.serve(CHUNK) == CHUNK_TOKENS - 1
    settle(rig)
    assert backend.puts == puts


def test_a_full_store_evicts_and_stays_within_its_capacity(backend):
    with rig_over(backend, storage_chunks=3) as rig:
        flood(rig, 10)
        settle(rig)
        assert below(rig).entries == 3
        assert below(rig).used_bytes <= 3 * FRAME_BYTES
        assert backend.usage().frames == 3


@pytest.mark.parametrize("at", [0, 9, 40, 130, 145, 155, 200, 4095, 4096, FRAME_BYTES - 1])
def test_a_flipped_bit_anywhere_is_a_miss_and_the_frame_is_removed(rig, backend, at):
    rig.serve(LONG)
    settle(rig)
    flood(rig)

    def flip(_keys, buffers):
        buffers[2][at] ^= 1

    backend.after_get = flip
    assert rig.serve(LONG) == 2 * CHUNK_TOKENS
    settle(rig)
    assert rig.engine.counters()["dict.damaged_frames"] == 1


def test_another_chunks_frame_is_a_miss(rig, backend):
    rig.serve(LONG)
    settle(rig)
    flood(rig)

    def swap(_keys, buffers):
        buffers[1][:] = bytes(buffers[2])

    backend.after_get = swap
    assert rig.serve(LONG) == CHUNK_TOKENS
    assert rig.engine.counters()["dict.damaged_frames"] == 1


def test_a_frame_the_store_has_lost_is_a_miss(rig, backend):
    rig.serve(LONG)
    settle(rig)
    flood(rig)
    backend.remove(list(rig.engine.tiers.storage[0].residents), Deadline(1))
    assert rig.serve(LONG) == 0


def test_a_store_that_raises_costs_a_hit_and_nothing_else(rig, backend):
    rig.serve(LONG)
    settle(rig)
    flood(rig)
    backend.fail = True
    assert rig.serve(LONG) == 0
    assert not below(rig).healthy
    gets = backend.gets
    assert rig.serve(LONG) == len(LONG) - 1, "it was stored in memory again"
    flood(rig)
    assert rig.serve(LONG) == 0
    assert backend.gets == gets, "the breaker leaves the store alone"


def test_a_store_that_stalls_costs_its_deadline_once_and_may_write_late(backend):
    with rig_over(backend, overrides={"promotion_timeout_seconds": 0.05}) as rig:
        rig.serve(LONG)
        settle(rig)
        flood(rig)
        backend.gate.clear()
        assert rig.serve(LONG) == 0
        assert rig.engine.counters()["promotion_timeouts"] == 1
        flood(rig)
        assert rig.serve(LONG) == 0
        assert rig.engine.counters()["promotion_timeouts"] == 1
        # The call comes back now: its bytes go to slots that are nobody else's.
        others = [[70_000 + i * 100 + j for j in range(CHUNK_TOKENS)] for i in range(3)]
        for other in others:
            rig.serve(other)
        backend.gate.set()
        settle(rig)
        for other in others:
            assert rig.serve(other) == CHUNK_TOKENS - 1


def test_what_was_fetched_for_a_request_waits_for_it(rig):
    rig.serve(LONG)
    settle(rig)
    flood(rig)
    name = rig.begin(LONG)
    while rig.engine._requests[name].promoting:
        settle_reads(rig)
    flood(rig)
    assert rig.engine.match(name, len(LONG)).tokens == len(LONG)
    rig.engine.finish(name)


def test_what_memory_holds_of_a_prompt_is_not_evicted_to_fetch_the_rest(rig):
    rig.serve(LONG)
    settle(rig)
    flood(rig, 6)
    assert rig.engine.tiers.memory.residents.capacity_bytes == 8 * SLOT_BYTES
    for prompt in range(6):
        flood(rig, 1, base=80_000 + prompt * 100)
        settle(rig)
    rig.serve(LONG[:32])
    for prompt in range(6):
        flood(rig, 1, base=90_000 + prompt * 100)
        settle(rig)
    assert rig.engine.tiers.covered(ask(LONG).tokens, Scope())["LocalCPUBackend"] == 32
    assert rig.serve(LONG) == len(LONG) - 1


def test_an_aborted_request_leaves_no_lease_behind_its_promotion(rig, backend):
    rig.serve(LONG)
    settle(rig)
    flood(rig)
    backend.gate.clear()
    backend.entered.clear()
    name = rig.begin(LONG)
    assert not rig.engine.match(name, len(LONG)).ready
    assert backend.entered.wait(10)
    rig.engine.finish(name)
    backend.gate.set()
    settle_reads(rig)
    flood(rig)
    settle(rig)
    memory = rig.engine.tiers.memory
    assert memory.residents.used_bytes == memory._pool.used_bytes
    assert all(memory.index.get(key).leases is None for key in memory.residents)


def test_a_full_and_pinned_cache_still_promotes_through_staging(backend):
    with rig_over(backend, overrides={"pin_share": 1.0}, staging_chunks=4) as rig:
        rig.serve(LONG)
        settle(rig)
        flood(rig, 8)
        tiers = rig.engine.tiers
        prompts = [[50_000 + n * 100 + i for i in range(CHUNK_TOKENS)] for n in range(8)]
        for number, prompt in enumerate(prompts):
            assert tiers.pins.pin(ask(prompt, f"p{number}")).tokens_pinned == CHUNK_TOKENS
        assert rig.serve(LONG) == len(LONG) - 1
        assert rig.serve(LONG) == len(LONG) - 1, "staging was given back"
        assert all(rig.hit(prompt) == CHUNK_TOKENS for prompt in prompts)


def test_a_pin_in_the_store_keeps_its_frames(backend):
    with rig_over(backend, storage_chunks=5) as rig:
        rig.serve(LONG[:32])
        settle(rig)
        report = rig.engine.tiers.pins.pin(ask(LONG[:32], location="dict"))
        assert report.tokens_pinned == 32
        flood(rig)
        settle(rig)
        assert rig.serve(LONG[:32]) == 31


def test_clearing_the_store_forgets_and_removes(rig, backend):
    rig.serve(LONG)
    settle(rig)
    tiers = rig.engine.tiers
    assert tiers.drop("dict", tiers.keys("dict"), force=False) == len(LONG)
    settle(rig)
    assert backend.usage().frames == 0
    flood(rig)
    assert rig.serve(LONG) == 0


class Full(Watched):
    def put(self, keys, frames, deadline):
        return [PutStatus.FULL for _ in keys]


def test_a_store_without_room_is_a_counter():
    with rig_over(Full()) as rig:
        rig.serve(LONG)
        settle(rig)
        assert rig.engine.counters()["dict.put_failures"] == 4
        assert rig.hit(LONG) == len(LONG)


def test_under_a_raised_epoch_nothing_enters_what_outlives_the_process(backend):
    spec = storage_spec("dict", lambda _config, _context: backend, Capability.SHARED)
    with Rig(storage=[spec]) as rig:
        rig.engine.reset()
        rig.serve(LONG)
        settle(rig)
        assert backend.puts == 0


def test_a_store_that_fails_fails_once_for_all_that_was_asked_of_it_together(
    rig, backend, monkeypatch
):
    monkeypatch.setattr(promotion, "PART_BYTES", 1)
    rig.serve(LONG)
    settle(rig)
    flood(rig)
    settle(rig)
    backend.gets = 0
    assert rig.hit(LONG) == len(LONG)
    assert backend.gets == 4, "each in a call of its own, and verified meanwhile"
    flood(rig)
    settle(rig)
    backend.gate.clear()
    backend.fail = True
    name = rig.begin(LONG)
    backend.gate.set()
    assert rig.wait_match(name, len(LONG)) == 0
    settle_reads(rig)
    tier = rig.engine.tiers.storage[0]
    assert tier.breaker.failures == 1
    assert tier.counters["read_failures"] == 4


def test_the_slot_of_a_frame_that_was_not_written_is_not_sealed_later():
    """What comes late to seal a frame must not write into a slot that is another's by then."""
    geometry = Geometry([KVGroup(CHUNK_TOKENS, 64)])
    seal = FrameSeal(bytes(32), geometry)
    piece = Piece(bytes(32), bytes(32), bytes(CHUNK_TOKENS * 4), 0)
    late, early = (bytearray(b"\xee" * FRAME_BYTES) for _ in range(2))
    entries = [Entry(piece, Slot(0, SLOT_BYTES), "") for _ in range(2)]
    sealing = Sealing(seal, entries[0], memoryview(late), bytes(32))
    sealing.end()
    sealing.seal()
    assert late == b"\xee" * FRAME_BYTES
    Sealing(seal, entries[1], memoryview(early), bytes(32)).seal()
    seal.verify(entries[1], memoryview(early), bytes(32))


@pytest.mark.parametrize("lost", [False, True], ids=["in memory too", "only there"])
def test_a_hit_renews_the_pins_of_what_is_held_below(rig, monkeypatch, lost):
    pins, now = rig.engine.tiers.pins, 0.0
    monkeypatch.setattr(pins, "_clock", lambda: now)
    rig.serve(LONG)
    settle(rig)
    with rig.engine.tiers.lock:
        for renew in (Renew.FIXED, Renew.ON_HIT):
            pins.pin(ask(LONG, renew.value, location="dict", ttl_seconds=10, renew=renew))
    if lost:
        flood(rig)
        settle(rig)
    now = 8.0
    assert rig.serve(LONG) == len(LONG) - 1
    now = 17.0
    with rig.engine.tiers.lock:
        assert pins.expire() == [Renew.FIXED.value]
