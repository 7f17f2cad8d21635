"""Three tiers: what goes down when, what comes up where, and what is lost and counted."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest

from lmcache_core.api import Capability, PutStatus
from lmcache_core.api.frames import HEADER_BYTES
from lmcache_core.api.messages import PinCommand, SettleCommand, Welcome
from lmcache_core.api.pins import OnMissing
from lmcache_core.config import TierRules
from lmcache_core.engine.chunks.sightings import Sightings
from lmcache_core.engine.control.commands import CommandRunner
from lmcache_core.engine.frames.header import FrameHeader
from lmcache_core.keys import Scope, tokens_to_bytes
from tests.engine.rig import BLOCK_TOKENS, CHUNK_TOKENS, FRAME_BYTES, SLOT_BYTES, Rig, storage_spec
from tests.engine.serdes import SIGNED, ZLIB, chain
from tests.engine.test_pins import MEMORY, ask
from tests.engine.test_storage_tier import CHUNK, LONG, Watched, settle_reads
from tests.engine.test_storage_tier import settle as settle_writes

THROUGH, BACK = TierRules(), TierRules(write="back", promote=False)


class Gated(Watched):
    """Stops in ``put`` while ``writing`` is closed."""

    def __init__(self, store=None):
        super().__init__()
        self._store = store or self._store
        self.writing = threading.Event()
        self.writing.set()
        self.writes = threading.Event()

    def put(self, keys, frames, deadline):
        self.writes.set()
        self.writing.wait(30)
        return super().put(keys, frames, deadline)

    @property
    def there(self):
        """Keys of the frames that it has."""
        return set(self._store.frames)


@pytest.fixture
def tiers():
    """Makes an engine over stores called ``near`` and ``far`` and lets go of all in the end."""
    with ExitStack() as stack:

        def make(near=THROUGH, far=THROUGH, *, stores=None, capabilities=Capability.NONE, **fields):
            stores = stores or {"near": Gated(), "far": Gated()}
            rules = {"near": near, "far": far}
            more = fields.pop("tier_fields", {})
            rig = Rig(
                storage=[
                    storage_spec(name, lambda _config, _context, store=store: store, capabilities)
                    for name, store in stores.items()
                ],
                tier_fields={name: {"rules": rules[name], **more.get(name, {})} for name in stores},
                **{"chunks": 4, "staging_chunks": 8, **fields},
            )
            stack.enter_context(rig)
            for store in stores.values():
                stack.callback(store.writing.set)
                stack.callback(store.gate.set)
            return rig, *stores.values()

        yield make


def settle(rig):
    """Wait until everything written, evicted and asked so far has been done."""
    settle_reads(rig)
    settle_writes(rig)


def prompt(number, chunks=1):
    return [1000 * number + i for i in range(chunks * CHUNK_TOKENS)]


def fill(rig, count, first=1):
    """Serve prompts of one chunk each, and let each be where it belongs."""
    for number in range(first, first + count):
        rig.serve(prompt(number))
        settle(rig)


def bounds(**chunks):
    """Bounds of tiers in chunks, as fields of their configuration."""
    return {name: {"capacity_bytes": count * FRAME_BYTES} for name, count in chunks.items()}


def held(rig, tokens=LONG):
    return rig.engine.tiers.covered(tokens_to_bytes(tokens), Scope())


def counters(rig, name):
    return rig.engine.tiers.storage_tier(name).counters


def nothing_is_under_way(rig):
    memory, lowering = rig.engine.tiers.memory, rig.engine.tiers.lowering
    assert lowering.waiting_bytes == memory._demoting_bytes == memory._staged_bytes == 0
    assert memory._pool.used_bytes == memory.residents.used_bytes
    assert all(memory.index.get(key).leases is None for key in memory.residents)
    return True


# -- write-back ---------------------------------------------------------------


def test_a_tier_that_is_written_back_to_is_given_what_memory_evicts_and_no_more(tiers):
    rig, near, far = tiers(near=BACK, far=BACK)
    fill(rig, 4)
    assert near.puts == far.puts == 0
    fill(rig, 2, first=5)
    assert (near.puts, far.puts) == (2, 0)
    assert counters(rig, "near")["demoted_frames"] == 2
    assert held(rig, prompt(1)) == {MEMORY: 0, "near": CHUNK_TOKENS, "far": 0}
    assert rig.hit(prompt(1)) == CHUNK_TOKENS
    settle(rig)
    assert nothing_is_under_way(rig)


def test_what_is_below_already_is_evicted_without_a_write(tiers):
    rig, near, _ = tiers(near=BACK)
    fill(rig, 8)
    assert near.puts == 4
    for number in range(1, 9):
        assert rig.hit(prompt(number)) == CHUNK_TOKENS
        settle(rig)
    assert near.puts == 8
    for number in range(1, 9):
        rig.hit(prompt(number))
        settle(rig)
    assert near.puts == 8
    assert counters(rig, "near")["demotions_dropped"] == 0


def test_a_chunk_that_the_upper_tier_does_not_take_goes_to_the_one_below(tiers):
    rig, _, _ = tiers(near=TierRules(write="back", min_tokens=CHUNK_TOKENS), far=BACK)
    short = list(range(7000, 7000 + 2 * BLOCK_TOKENS))
    rig.serve(short)
    fill(rig, 6)
    assert held(rig, short)["far"] == len(short)
    assert held(rig, prompt(1)) == {MEMORY: 0, "near": CHUNK_TOKENS, "far": 0}
    assert counters(rig, "near")["refused_frames"] == 1


def test_what_was_written_through_further_down_is_still_demoted_into_a_tier_above_it(tiers):
    rig, near, far = tiers(near=BACK, far=THROUGH)
    fill(rig, 6)
    assert (near.puts, far.puts) == (2, 6)


def test_a_tail_that_does_not_fill_its_block_goes_nowhere(tiers):
    rig, near, far = tiers(near=BACK, far=BACK)
    rig.serve(list(range(7000, 7000 + BLOCK_TOKENS + 1)))
    fill(rig, 5)
    assert held(rig, prompt(1))["near"] == CHUNK_TOKENS
    assert near.puts == 1
    assert far.puts == 0


def test_eviction_waits_for_nothing_and_what_is_above_the_bound_is_dropped(tiers):
    """Half of a staging part of eight slots takes what a stalled store leaves waiting."""
    rig, near, far = tiers(near=BACK, far=BACK, staging_chunks=8)
    near.writing.clear()
    fill_without_waiting = [prompt(number) for number in range(1, 15)]
    for tokens in fill_without_waiting:
        assert rig.serve(tokens) == 0
    memory = rig.engine.tiers.memory
    assert memory.residents.used_bytes == 4 * SLOT_BYTES
    assert memory._demoting_bytes == 4 * SLOT_BYTES
    assert counters(rig, "near")["demotions_dropped"] == 14 - 4 - 4
    assert counters(rig, "far")["demotions_dropped"] == far.puts == 0
    found = [rig.hit(tokens) for tokens in fill_without_waiting]
    assert sum(found) == 8 * CHUNK_TOKENS, "what waits for the store is found all the while"
    near.writing.set()
    settle(rig)
    assert nothing_is_under_way(rig)
    assert counters(rig, "near")["demoted_frames"] == 4


def test_what_is_hit_on_its_way_down_stays_until_it_is_loaded(tiers):
    rig, near, _ = tiers(near=BACK)
    fill(rig, 4)
    near.writing.clear()
    rig.serve(prompt(5))
    assert near.writes.wait(10)
    name = rig.begin(prompt(1))
    assert rig.wait_match(name, CHUNK_TOKENS) == CHUNK_TOKENS
    near.writing.set()
    settle(rig)
    rig.serve(prompt(6))
    rig.serve(prompt(7))
    settle(rig)
    blocks = rig.blocks_for(CHUNK_TOKENS)
    job = rig.engine.plan_load(name, 0, CHUNK_TOKENS, [blocks])
    rig.load(job)
    rig.engine.acknowledge([job.job_id])
    rig.engine.finish(name)
    assert rig.serve(prompt(1)) == CHUNK_TOKENS - 1
    settle(rig)
    assert nothing_is_under_way(rig)


def test_what_is_computed_again_on_its_way_down_is_an_entry_of_its_own(tiers):
    rig, near, _ = tiers(near=BACK)
    fill(rig, 4)
    near.writing.clear()
    rig.serve(prompt(5))
    assert near.writes.wait(10)
    name = rig.begin(prompt(1))
    tables = rig.tables_for(CHUNK_TOKENS)
    rig.compute(tables, prompt(1), Scope())
    job = rig.engine.plan_store(name, CHUNK_TOKENS, tables, final=True)
    rig.store(job)
    rig.engine.acknowledge([job.job_id])
    rig.engine.finish(name)
    assert held(rig, prompt(1))[MEMORY] == CHUNK_TOKENS
    near.writing.set()
    settle(rig)
    assert held(rig, prompt(1)) == dict.fromkeys((MEMORY, "near", "far"), CHUNK_TOKENS)
    assert rig.serve(prompt(1)) == CHUNK_TOKENS - 1
    settle(rig)
    assert nothing_is_under_way(rig)


def test_a_store_that_is_down_or_full_loses_what_is_evicted_and_says_so(tiers):
    rig, near, far = tiers(near=BACK, far=BACK)
    near.fail = True
    fill(rig, 5)
    assert counters(rig, "near")["demotions_dropped"] == 1, "it was tried"
    fill(rig, 1, first=6)
    assert far.puts == 1, "the breaker is open; what is below takes it"
    near.fail = False
    rig.engine.tiers.storage_tier("near").breaker.succeeded()
    near.put = lambda keys, *_: [PutStatus.FULL for _ in keys]
    fill(rig, 1, first=7)
    assert counters(rig, "near")["demoted_frames"] == 0
    assert nothing_is_under_way(rig)


def test_after_a_reset_nothing_is_demoted_into_what_outlives_the_process(tiers):
    rig, near, far = tiers(near=BACK, far=BACK, capabilities=Capability.DURABLE)
    fill(rig, 4)
    rig.engine.reset()
    fill(rig, 8, first=10)
    assert near.puts == far.puts == 0


def test_what_is_being_read_is_not_evicted_for_what_has_to_make_room_for_it(tiers):
    rig, near, _ = tiers(near=BACK, tier_fields=bounds(near=4))
    rig.serve(LONG)
    fill(rig, 4)
    assert held(rig)["near"] == len(LONG)
    near.gate.clear()
    name = rig.begin(LONG)
    settle_writes(rig)
    near.gate.set()
    assert rig.wait_match(name, len(LONG)) == len(LONG)
    rig.engine.finish(name)
    assert counters(rig, "near")["demotions_dropped"] == 4
    fill(rig, 8, first=5)
    assert counters(rig, "near")["evictions"] == 4, "they may go when they have been read"


# -- from one store to the next ----------------------------------------------


def test_what_a_store_evicts_goes_to_the_next(tiers):
    rig, near, far = tiers(far=BACK, tier_fields=bounds(near=6))
    fill(rig, 6)
    assert far.puts == 0
    fill(rig, 4, first=7)
    assert counters(rig, "far")["demoted_frames"] == 4
    assert held(rig, prompt(1)) == {MEMORY: 0, "near": 0, "far": CHUNK_TOKENS}
    assert not near.there & far.there
    for number in range(1, 11):
        assert rig.hit(prompt(number)) == CHUNK_TOKENS
        settle(rig)
    assert nothing_is_under_way(rig)


def test_chunks_fall_through_all_tiers_and_come_back_from_each(tiers):
    rig, near, far = tiers(near=BACK, far=BACK, storage_chunks=5)
    fill(rig, 14)
    assert [len(store.there) for store in (near, far)] == [5, 5]
    assert counters(rig, "far")["demoted_frames"] == 5
    name = rig.begin(prompt(3))
    assert rig.wait_match(name, CHUNK_TOKENS) == CHUNK_TOKENS
    assert rig.engine.match(name, CHUNK_TOKENS).by_location == {"far": CHUNK_TOKENS}
    rig.engine.finish(name)
    for number in range(2, 15):
        rig.serve(prompt(number))
        settle(rig)
    assert nothing_is_under_way(rig)


@pytest.mark.parametrize("above", [(), ("zlib",), ("zlib", "signed")])
@pytest.mark.parametrize("below", [(), ("signed",)])
def test_tiers_of_unlike_serdes_hand_frames_down(tiers, above, below):
    room = 3 * (HEADER_BYTES + (1024 if above else 4 * 4096))
    fields = {"near": chain(*above) | {"capacity_bytes": room}, "far": chain(*below)}
    rig, _, far = tiers(
        near=BACK, far=BACK, offers=[ZLIB, SIGNED], tier_fields=fields, block_bytes=4096
    )
    fill(rig, 16)
    assert counters(rig, "far")["demoted_frames"] > 0
    assert counters(rig, "far")["demotions_dropped"] == 0
    for frame in far._store.frames.values():
        header = FrameHeader.parse(memoryview(frame))
        assert header.serdes == below
    for number in range(1, 17):
        assert rig.serve(prompt(number)) == CHUNK_TOKENS - 1
        settle(rig)
    assert counters(rig, "far")["read_frames"] > 0
    assert counters(rig, "far")["damaged_frames"] == 0


def test_what_was_kept_and_does_not_fit_any_more_goes_down_at_the_start(tiers):
    stores = {"near": Gated(), "far": Gated()}
    rig, near, far = tiers(stores=stores, far=BACK, capabilities=Capability.SCAN)
    fill(rig, 6)
    rig.engine.close()
    again = {"near": Gated(near._store), "far": Gated(far._store)}
    rig, near, far = tiers(
        stores=again, far=BACK, capabilities=Capability.SCAN, tier_fields=bounds(near=4)
    )
    settle(rig)
    assert (len(near.there), len(far.there)) == (4, 2)
    for number in range(1, 7):
        assert rig.hit(prompt(number)) == CHUNK_TOKENS
        settle(rig)


def test_a_damaged_frame_is_not_handed_down(tiers):
    rig, near, far = tiers(far=BACK, storage_chunks=5)
    fill(rig, 5)
    first = next(iter(near._store.frames))
    frame = bytearray(near._store.frames[first])
    frame[-1] ^= 1
    near._store.frames[first] = bytes(frame)
    fill(rig, 2, first=6)
    assert first not in far.there
    assert counters(rig, "far")["demotions_dropped"] == 1
    assert counters(rig, "far")["demoted_frames"] == 1


def test_a_store_that_cannot_be_read_evicts_all_the_same(tiers):
    rig, near, far = tiers(far=BACK, storage_chunks=5)
    fill(rig, 5)
    victim = rig.engine.tiers.storage_tier("near").residents.victim()
    near.get = lambda *_: 1 / 0
    fill(rig, 1, first=6)
    assert victim not in near.there
    assert far.puts == 0
    assert nothing_is_under_way(rig)


# -- promotion ----------------------------------------------------------------


@pytest.mark.parametrize("promote", [True, False])
def test_a_hit_far_down_is_copied_into_the_tiers_between_that_want_it(tiers, promote):
    rig, _, _ = tiers(near=TierRules(promote=promote))
    fill(rig, 6)
    names = rig.engine.tiers
    names.drop("near", names.keys("near"), force=False)
    settle(rig)
    assert rig.hit(prompt(1)) == CHUNK_TOKENS
    settle(rig)
    assert held(rig, prompt(1))["near"] == (CHUNK_TOKENS if promote else 0)
    assert held(rig, prompt(1))[MEMORY] == CHUNK_TOKENS


# -- admission ----------------------------------------------------------------


def test_what_is_asked_once_does_not_get_into_a_tier_that_wants_reuse(tiers):
    rig, near, far = tiers(near=TierRules(min_reuse=2), far=TierRules(write="back", min_reuse=3))
    fill(rig, 6)
    assert near.puts == far.puts == 0
    assert rig.serve(prompt(6)) == CHUNK_TOKENS - 1
    settle(rig)
    assert near.puts == 1, "the second time it is seen"
    fill(rig, 6, first=10)
    assert rig.serve(prompt(1)) == 0, "it had to be computed a second time"
    settle(rig)
    assert held(rig, prompt(1)) == {MEMORY: CHUNK_TOKENS, "near": CHUNK_TOKENS, "far": 0}
    rig.hit(prompt(1))
    names = rig.engine.tiers
    names.drop("near", names.keys("near"), force=False)
    fill(rig, 6, first=20)
    assert far.puts == 1, "seen three times, evicted once"
    assert counters(rig, "near")["admitted_frames"] == 2


def test_sightings_are_bounded_and_forget_what_was_seen_longest_ago():
    sightings = Sightings(limit=3 * 256)
    # Each part of the keys forgets by itself.
    for name in (b"xa", b"xb", b"xc", b"y", b"xa", b"xd"):
        sightings.see(name)
    assert len(sightings) == 4
    counts = [sightings.count(name) for name in (b"xa", b"xb", b"xc", b"xd", b"y")]
    assert counts == [2, 0, 1, 1, 1]


# -- pins -----------------------------------------------------------------------


class Commander:
    """What the control agent does with a pin command."""

    def __init__(self, rig):
        self.runner = CommandRunner(rig.engine, "rig", 1)
        self.woken = threading.Event()
        rig.engine.settled = self.woken.set

    def pin(self, tokens, pin_id="p", seconds=10, **fields):
        request = ask(tokens, pin_id, **fields)
        command = PinCommand(request_id=pin_id, deadline_seconds=seconds, pin=request)
        while self.runner.must_wait(command):
            if not self.woken.wait(seconds):
                break
            self.woken.clear()
        return self.runner.run(command)


def test_a_pin_in_a_tier_that_is_written_back_to_brings_the_bytes_there(tiers):
    rig, near, far = tiers(near=BACK, far=TierRules(write="back", min_reuse=9))
    rig.serve(LONG)
    settle(rig)
    for location, store in (("near", near), ("far", far)):
        reply = Commander(rig).pin(LONG, location, location=location)
        assert (reply.num_tokens, reply.pin.state.value) == (len(LONG), "active")
        assert store.puts == 4
    fill(rig, 20)
    assert held(rig)["near"] == held(rig)["far"] == len(LONG)
    assert rig.serve(LONG) == len(LONG) - 1


def test_a_pin_covers_only_what_has_arrived_within_its_time(tiers):
    rig, near, _ = tiers(near=BACK)
    rig.serve(LONG)
    near.writing.clear()
    reply = Commander(rig).pin(LONG, seconds=0.05, location="near", on_missing=OnMissing.FAIL)
    assert reply.error == "missing"
    reply = Commander(rig).pin(
        LONG, "q", seconds=0.05, location="near", on_missing=OnMissing.PARTIAL
    )
    assert reply.num_tokens == 0
    reply = Commander(rig).pin(
        LONG, "r", seconds=0.05, location="near", on_missing=OnMissing.RESERVE
    )
    assert reply.num_tokens == 0
    near.writing.set()
    settle(rig)
    reports = {name: rig.engine.tiers.pins.report(name) for name in "pqr"}
    assert reports["p"] is None
    assert reports["q"].tokens_pinned == 0
    assert reports["r"].tokens_pinned == len(LONG)
    assert nothing_is_under_way(rig)


def test_a_pin_of_another_ledger_is_refused_before_it_brings_anything_down(tiers):
    rig, near, _ = tiers(near=BACK)
    rig.serve(LONG)
    settle(rig)
    commander = Commander(rig)
    for ledger_id in ("ours", "another"):
        commander.runner.bond.welcome(
            Welcome(instance_id="rig", incarnation=1, ledger_id=ledger_id)
        )
        rig.engine.tiers.pins.pin(ask(LONG[:CHUNK_TOKENS], ledger_id))
    assert commander.pin(LONG, location="near").error == "conflict"
    settle(rig)
    assert near.puts == 0


def test_what_a_pin_waits_for_is_written_at_once_whatever_the_rules_are(tiers):
    rules = TierRules(write="back", min_reuse=5, min_tokens=100)
    rig, near, far = tiers(near=rules, far=BACK, chunks=8)
    reply = Commander(rig).pin(LONG, location="near", on_missing=OnMissing.RESERVE)
    assert reply.num_tokens == 0
    rig.serve(LONG)
    settle(rig)
    assert rig.engine.tiers.pins.report("p").tokens_pinned == len(LONG)
    assert (near.puts, far.puts) == (4, 0)
    fill(rig, 10)
    assert held(rig)["near"] == len(LONG)


def test_what_a_pin_waits_for_goes_down_at_the_latest_when_it_is_evicted(tiers):
    """Where too much waits for the store already to write it at once."""
    rig, near, _ = tiers(near=TierRules(write="back", min_reuse=5), far=BACK)
    Commander(rig).pin(LONG, location="near", on_missing=OnMissing.RESERVE)
    near.writing.clear()
    rig.serve(LONG)
    assert counters(rig, "near")["put_skipped"] == 2
    near.writing.set()
    settle(rig)
    fill(rig, 4)
    assert rig.engine.tiers.pins.report("p").tokens_pinned == len(LONG)


def test_what_a_pin_waits_for_is_copied_on_its_way_up(tiers):
    rig, _, _ = tiers(near=BACK)
    rig.serve(CHUNK)
    fill(rig, 6)
    names = rig.engine.tiers
    names.drop("near", names.keys("near"), force=False)
    settle(rig)
    Commander(rig).pin(CHUNK, location="near", on_missing=OnMissing.RESERVE)
    assert rig.hit(CHUNK) == CHUNK_TOKENS
    settle(rig)
    assert rig.engine.tiers.pins.report("p").tokens_pinned == CHUNK_TOKENS


def test_what_is_pinned_in_a_tier_is_not_demoted_from_it(tiers):
    rig, near, _ = tiers(far=BACK, storage_chunks=6)
    rig.serve(prompt(1, chunks=2))
    settle(rig)
    assert Commander(rig).pin(prompt(1, chunks=2), location="near").num_tokens == 2 * CHUNK_TOKENS
    fill(rig, 12, first=20)
    assert held(rig, prompt(1, chunks=2)) == {MEMORY: 0, "near": 2 * CHUNK_TOKENS, "far": 0}
    assert len(near.there) == 6


def test_a_pin_in_host_memory_brings_nothing_down(tiers):
    rig, near, far = tiers(near=BACK, far=BACK, chunks=8)
    rig.serve(LONG)
    assert Commander(rig).pin(LONG, location=MEMORY).num_tokens == len(LONG)
    settle(rig)
    assert near.puts == far.puts == 0


# -- look-ups, clear and events -----------------------------------------------------------


def test_a_look_up_counts_what_the_tiers_have_together(tiers):
    rig, _, _ = tiers(near=BACK, far=BACK, tier_fields=bounds(near=2))
    rig.serve(LONG)
    fill(rig, 3)
    assert held(rig) == {MEMORY: CHUNK_TOKENS, "near": 0, "far": 0}
    command = SettleCommand(request_id="1", deadline_seconds=1, tokens=tokens_to_bytes(LONG))
    reply = CommandRunner(rig.engine, "rig", 1).run(command)
    assert (reply.num_tokens, reply.facts) == (len(LONG), held(rig))
    assert rig.serve(LONG) == len(LONG) - 1


def test_each_tier_is_cleared_and_told_of_by_itself(tiers):
    rig, near, far = tiers(near=BACK, far=BACK, storage_chunks=5)
    names = rig.engine.tiers
    names.events.enable()
    fill(rig, 14)
    there = {name: set() for name in names.locations}
    for location, admitted, key in names.events.take(10_000):
        (there[location].add if admitted else there[location].remove)(key)
    assert there == {name: set(names.keys(name)) for name in names.locations}
    assert [len(keys) for keys in there.values()] == [4, 5, 5]
    for name, store in (("far", far), ("near", near)):
        assert names.drop(name, names.keys(name), force=False) == 5 * CHUNK_TOKENS
        settle(rig)
        assert not store.there
    assert [tier.entries for tier in names.status()] == [4, 0, 0]
