"""Requests, pins and clears in any order against a plain model.

The model knows every prompt that was ever served and every pin; it does not
know how the cache evicts. What it demands: loaded bytes are right (the rig
compares them), nothing is found that was never stored, pinned tokens stay
found, bounds hold, and when everything has ended nothing is held.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lmcache_core.api import Capability
from lmcache_core.api.connector import KVGroup
from lmcache_core.api.pins import OnMissing
from lmcache_core.config import ANYWHERE, TierRules
from lmcache_core.errors import CapacityError
from lmcache_core.keys import Scope
from lmcache_core.testing import DictBackend, DictConfig
from tests.engine.hybrid_rig import HybridRig, windows
from tests.engine.marks import marking, marks_are_pins, most_pinned
from tests.engine.rig import BLOCK_TOKENS, CHUNK_TOKENS, Rig, storage_spec
from tests.engine.serdes import SIGNED, ZLIB, chain
from tests.engine.test_pins import MEMORY, ask
from tests.engine.test_storage_tier import settle, settle_reads

SCOPES = [Scope(), Scope.of(cache_salt="s")]


@st.composite
def prompts(draw):
    """Prompts that share prefixes often: few families, few branch points."""
    family = draw(st.integers(0, 2))
    length = draw(st.sampled_from([1, 3, 4, 7, 15, 16, 17, 24, 31, 32, 33, 47]))
    branch = draw(st.sampled_from([None, 0, 2, 5, 16, 20]))
    tokens = [family * 1000 + i for i in range(length)]
    if branch is not None:
        tokens = tokens[:branch] + [9000 + family * 7 + i for i in range(length - branch)]
    return tuple(tokens)


def dict_spec(name):
    """A dictionary as the store of a tier."""

    def make(_config, context):
        return DictBackend(DictConfig(), context)

    return storage_spec(name, make, Capability.NONE)


class CacheMachine(RuleBasedStateMachine):
    """Host memory alone; short chunks take less than whole ones."""

    make_rig = staticmethod(lambda: Rig(chunks=6, staging_chunks=2, block_bytes=4096))
    together: tuple[str, ...] = (ANYWHERE,)

    def __init__(self):
        super().__init__()
        self.rig = self.make_rig()
        self.served: dict[int, set[tuple[int, ...]]] = {0: set(), 1: set()}
        self.pinned: dict[str, tuple[tuple[int, ...], int, int]] = {}
        self.open: list[int] = []

    @rule(tokens=prompts(), scope=st.integers(0, 1), steps=st.sampled_from([5, 16, 100]))
    def serve(self, tokens, scope, steps):
        hit = self.rig.serve(tokens, SCOPES[scope], steps=steps)
        assert hit <= self.longest_known(tokens, scope)
        self.served[scope].add(tokens)

    @rule(tokens=prompts(), scope=st.integers(0, 1))
    def store_without_acknowledging(self, tokens, scope):
        name = self.rig.begin(tokens, SCOPES[scope])
        tables = self.rig.tables_for(len(tokens))
        self.rig.compute(tables, tokens, SCOPES[scope])
        job = self.rig.engine.plan_store(name, len(tokens), tables, final=True)
        if job is not None:
            self.rig.store(job)
            self.open.append(job.job_id)
            self.served[scope].add(tokens)
        self.rig.engine.finish(name)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), ok=st.booleans())
    def acknowledge(self, data, ok):
        job = data.draw(st.sampled_from(self.open))
        self.open.remove(job)
        self.rig.engine.acknowledge([job] if ok else [], failed=[] if ok else [job])

    @rule(
        tokens=prompts(),
        scope=st.integers(0, 1),
        pin_id=st.sampled_from("abc"),
        on_missing=st.sampled_from([OnMissing.PARTIAL, OnMissing.RESERVE]),
        location=st.integers(0, 3),
    )
    def pin(self, tokens, scope, pin_id, on_missing, location):
        version = self.pinned[pin_id][2] + 1 if pin_id in self.pinned else self.next_version()
        pins = self.rig.engine.tiers.pins
        locations = (*self.rig.engine.tiers.locations, *self.together)
        request = ask(
            tokens,
            pin_id,
            version=version,
            scope=SCOPES[scope],
            on_missing=on_missing,
            location=locations[location % len(locations)],
        )
        try:
            report = pins.pin(request)
        except CapacityError:
            return
        assert report.tokens_pinned <= self.longest_known(tokens, scope)
        self.pinned[pin_id] = (tokens, scope, version)

    @precondition(lambda self: self.pinned)
    @rule(data=st.data())
    def unpin(self, data):
        pin_id = data.draw(st.sampled_from(sorted(self.pinned)))
        _, _, version = self.pinned.pop(pin_id)
        held = self.rig.engine.tiers.pins.report(pin_id).tokens_pinned
        assert self.rig.engine.tiers.pins.unpin(pin_id, version) == held

    @rule(force=st.booleans(), location=st.integers(0, 2))
    def clear(self, force, location):
        tiers = self.rig.engine.tiers
        name = tiers.locations[location % len(tiers.locations)]
        tiers.drop(name, tiers.keys(name), force=force)

    @rule()
    def reset(self):
        self.rig.engine.reset()
        for served in self.served.values():
            served.clear()

    @rule(tokens=prompts(), scope=st.integers(0, 1), load=st.booleans())
    def abort(self, tokens, scope, load):
        engine, name = self.rig.engine, self.rig.begin(tokens, SCOPES[scope])
        match = engine.match(name, len(tokens))
        assert match.tokens <= self.longest_known(tokens, scope)
        if load and match.tokens:
            job = engine.plan_load(name, 0, match.tokens, self.rig.tables_for(len(tokens)))
            self.open.append(job.job_id)
        engine.finish(name)

    @invariant()
    def pinned_tokens_are_found(self):
        tiers = self.rig.engine.tiers
        with tiers.lock:
            for pin_id in self.pinned:
                pin = tiers.pins._pins[pin_id]
                assert tiers.pins.report(pin_id).tokens_pinned <= most_pinned(tiers, pin)
                for number in pin.covers:
                    assert len(marking(tiers, pin, number)) == 1
            marks_are_pins(tiers)

    @invariant()
    def bounds_hold(self):
        residents = self.rig.engine.tiers.memory.residents
        memory = self.rig.engine.tiers.memory
        in_use = residents.used_bytes + memory._writing_bytes
        assert in_use <= residents.capacity_bytes
        assert memory._staged_bytes <= memory._staging_bytes
        assert memory._pool.used_bytes == in_use + memory._staged_bytes
        taken = residents.pinned_bytes + residents.reserved_bytes
        assert taken <= residents.capacity_bytes * 4 // 5
        marked = sum(residents.size(key) for key in residents if residents.marked(key))
        assert residents.pinned_bytes == marked
        assert residents.reserved_bytes >= 0

    def teardown(self):
        engine = self.rig.engine
        engine.acknowledge(self.open)
        if engine.tiers.storage:
            self.store_is_accounted_for()
        for pin_id, (_, _, version) in self.pinned.items():
            engine.tiers.pins.unpin(pin_id, version)
        residents = engine.tiers.memory.residents
        assert (residents.pinned_bytes, residents.reserved_bytes) == (0, 0)
        engine.tiers.drop(MEMORY, engine.tiers.keys(MEMORY), force=False)
        assert engine.tiers.memory._pool.used_bytes == 0
        self.rig.__exit__()

    def longest_known(self, tokens, scope):
        best = 0
        for known in self.served[scope]:
            shared = 0
            while shared < min(len(known), len(tokens)) and known[shared] == tokens[shared]:
                shared += 1
            best = max(best, shared)
        return best

    def next_version(self):
        self.versions = getattr(self, "versions", 0) + 100
        return self.versions


class TwoTierMachine(CacheMachine):
    """A store below that is too small for everything, and staging that is used."""

    @staticmethod
    def make_rig():
        spec = dict_spec("dict")
        return Rig(chunks=6, staging_chunks=2, block_bytes=4096, storage=[spec], storage_chunks=5)

    @invariant()
    def store_is_accounted_for(self):
        # Waiting for both threads makes every run of one seed the same.
        settle_reads(self.rig)
        settle(self.rig)
        tiers = self.rig.engine.tiers
        assert tiers.lowering.waiting_bytes == tiers.memory._demoting_bytes == 0
        for tier in tiers.storage:
            frames = tier._calls._backend._store.frames
            sizes = {key: tier.residents.size(key) for key in tier.residents}
            assert sizes == {key: len(frame) for key, frame in frames.items()}
            assert sum(sizes.values()) == tier.residents.used_bytes
            assert tier.residents.used_bytes <= tier.residents.capacity_bytes
            assert tier.counters["damaged_frames"] == tier.counters["read_failures"] == 0
            taken = tier.residents.pinned_bytes + tier.residents.reserved_bytes
            assert taken <= tier.residents.capacity_bytes * 4 // 5


class HybridMachine(TwoTierMachine):
    """Groups of unlike blocks and windows, over two tiers."""

    together = ()

    @staticmethod
    def make_rig():
        spec = dict_spec("dict")
        groups = windows((4, None), (2, 7), (8, 12), token_bytes=512)
        return HybridRig(
            chunks=6, staging_chunks=2, groups=groups, storage=[spec], storage_chunks=5
        )

    @rule(
        tokens=prompts(),
        scope=st.integers(0, 1),
        steps=st.sampled_from([3, 8, 11, 100]),
        local=st.sampled_from([8, 16, 24, 40]),
    )
    def serve_beside_a_local_hit(self, tokens, scope, steps, local):
        """What the server has itself is stored with holes."""
        if local < len(tokens):
            hit = self.rig.serve(tokens, SCOPES[scope], steps=steps, local=local)
            assert hit <= self.longest_known(tokens, scope)
            self.served[scope].add(tokens)


class HierarchyMachine(TwoTierMachine):
    """Three tiers, each given what the one above evicts, tails too, and little staging."""

    @staticmethod
    def make_rig():
        back = {"rules": TierRules(write="back", promote=False)}
        return Rig(
            chunks=5,
            staging_chunks=4,
            block_bytes=4096,
            groups=[KVGroup(BLOCK_TOKENS, 4096, clears_tails=True)],
            storage=[dict_spec("near"), dict_spec("far")],
            storage_chunks=4,
            tier_fields={"near": back, "far": back},
        )


class MixedHierarchyMachine(HybridMachine):
    """Windows, serdes, reuse and both ways of writing, in three tiers."""

    @staticmethod
    def make_rig():
        near = {"rules": TierRules(min_reuse=2), **chain("zlib")}
        far = {"rules": TierRules(write="back", promote=False), **chain("zlib", "signed")}
        return HybridRig(
            chunks=5,
            staging_chunks=4,
            groups=windows((4, None), (2, 7), (8, 12), token_bytes=512),
            offers=[ZLIB, SIGNED],
            storage=[dict_spec("near"), dict_spec("far")],
            storage_chunks=2,
            tier_fields={"near": near, "far": far},
        )


class EncodedMachine(HybridMachine):
    """The same, and the store has frames that two serdes have encoded."""

    @staticmethod
    def make_rig():
        spec = dict_spec("dict")
        return HybridRig(
            chunks=6,
            staging_chunks=2,
            groups=windows((4, None), (2, 7), (8, 12), token_bytes=512),
            storage=[spec],
            storage_chunks=3,
            offers=[ZLIB, SIGNED],
            tier_fields={"dict": chain("zlib", "signed")},
        )


MACHINES = (
    CacheMachine,
    TwoTierMachine,
    HybridMachine,
    EncodedMachine,
    HierarchyMachine,
    MixedHierarchyMachine,
)
for machine in MACHINES:
    machine.TestCase.settings = settings(
        max_examples=int(os.environ.get("TEST_EXAMPLES", "40")),
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
TestCacheMachine = CacheMachine.TestCase
TestTwoTierMachine = TwoTierMachine.TestCase
TestHybridMachine = HybridMachine.TestCase
TestEncodedMachine = EncodedMachine.TestCase
TestHierarchyMachine = HierarchyMachine.TestCase
TestMixedHierarchyMachine = MixedHierarchyMachine.TestCase

assert CHUNK_TOKENS == 16, "the prompt lengths above are chosen around the chunk"
