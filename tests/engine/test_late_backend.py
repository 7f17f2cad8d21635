"""A call that returns after its deadline writes into nothing that is somebody else's by then."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from lmcache_core.api import BackendContext, Capability
from lmcache_core.testing import DictBackend, DictConfig, DictStore, FaultyBackend, LateBackend
from lmcache_core.testing.faults import Late
from tests.engine.rig import BLOCK_BYTES, CHUNK_TOKENS, Rig, storage_spec
from tests.engine.test_hostile_store import no_leases
from tests.engine.test_storage_tier import LONG, flood, settle, settle_reads

IMPATIENT = {"storage_timeout_seconds": 0.05, "promotion_timeout_seconds": 0.05}


def shelf(store=None):
    context = BackendContext(instance_id="rig", tier="late")
    return DictBackend(DictConfig(), context, store or DictStore())


def rig_over(backend, capabilities=Capability.NONE, **fields):
    spec = storage_spec("late", lambda _config, _context: backend, capabilities)
    return Rig(chunks=8, storage=[spec], **fields)


def region_of(rig):
    return bytes(rig.region.view(0, rig.region.nbytes))


def taken(rig):
    """Where each chunk that can be found lies in the region."""
    memory = rig.engine.tiers.memory
    slots = [memory.index.get(key).slot for key in memory.residents]
    return [range(slot.offset, slot.offset + slot.nbytes) for slot in slots]


@pytest.mark.parametrize("waiting", [True, False], ids=["given up", "gone"])
def test_a_late_read_changes_no_byte_of_a_slot_given_to_someone_else(waiting):
    backend = LateBackend(shelf())
    late, backend.fault = backend.late, None
    with ExitStack() as stack:
        rig = stack.enter_context(rig_over(backend, overrides=IMPATIENT))
        stack.callback(late.released.set)
        rig.serve(LONG)
        settle(rig)
        flood(rig)
        settle(rig)
        backend.fault = late
        name = rig.begin(LONG)
        assert late.entered.wait(10)
        if waiting:
            assert rig.wait_match(name, len(LONG)) == 0, "the request goes on without it"
        rig.engine.finish(name)

        # Others want all of the memory, again and again, and read what they have stored.
        memory = rig.engine.tiers.memory
        stranded = memory._pool.used_bytes - memory.residents.used_bytes
        assert stranded > 0
        for number in range(12):
            other = [9_000_000 + 1000 * number + i for i in range(3 * CHUNK_TOKENS)]
            assert rig.serve(other) == 0
            assert rig.serve(other) == len(other) - 1
            settle(rig)  # what is being written cannot make room
        assert memory._pool.used_bytes - memory.residents.used_bytes == stranded
        slots, before = taken(rig), region_of(rig)
        late.released.set()
        settle_reads(rig)
        after = region_of(rig)
        changed = [
            at
            for at in range(0, len(before), BLOCK_BYTES)
            if before[at : at + BLOCK_BYTES] != after[at : at + BLOCK_BYTES]
        ]
        assert changed, "the late read has written"
        assert not [at for at in changed for slot in slots if at in slot]
        assert rig.serve(other) == len(other) - 1
        settle(rig)
        assert no_leases(rig)


def test_a_late_write_stores_what_it_was_given():
    late = Late()
    backend = FaultyBackend(shelf(), late, {"put"})
    with ExitStack() as stack:
        rig = stack.enter_context(rig_over(backend))
        stack.callback(late.released.set)
        rig.serve(LONG)
        assert late.entered.wait(10)
        flood(rig)
        late.released.set()
        settle(rig)
        frames = dict(backend._backend._store.frames)
        assert frames
    store = DictStore()
    store.frames.update(frames)
    with rig_over(shelf(store), Capability.SCAN) as rig:
        assert rig.engine.counters()["late.recovered_frames"] == len(frames)
        found = rig.serve(LONG)
        settle_reads(rig)
        assert rig.engine.counters()["late.damaged_frames"] == 0
        assert found > 0


def test_two_writers_of_one_key_leave_one_whole_frame():
    store = DictStore()
    lates = [Late(), Late()]
    backends = [FaultyBackend(shelf(store), late, {"put"}) for late in lates]
    with ExitStack() as stack:
        rigs = [stack.enter_context(rig_over(backend, Capability.SHARED)) for backend in backends]
        for late, rig in zip(lates, rigs, strict=True):
            stack.callback(late.released.set)
            rig.serve(LONG)
            assert late.entered.wait(10)
        for late in lates:
            late.released.set()
        for rig in rigs:
            settle(rig)
        puts = [rig.engine.counters()["late.put_frames"] for rig in rigs]
        assert puts == [4, 4], "who came second was told so, and counts it as there"
        assert len(store.frames) == 4
    with rig_over(shelf(store), Capability.SCAN) as rig:
        assert rig.serve(LONG) == len(LONG) - 1
        assert rig.engine.counters()["late.damaged_frames"] == 0
