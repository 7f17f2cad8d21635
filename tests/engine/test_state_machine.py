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

from lmcache_core.api.pins import OnMissing
from lmcache_core.errors import CapacityError
from lmcache_core.keys import Scope
from tests.engine.rig import CHUNK_TOKENS, Rig
from tests.engine.test_pins import MEMORY, ask

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


class CacheMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.rig = Rig(chunks=6, staging_chunks=2)
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
        blocks = self.rig.blocks_for(len(tokens))
        self.rig._compute(blocks, self.expected(tokens, scope), len(tokens))
        job = self.rig.engine.plan_store(name, len(tokens), blocks, final=True)
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
    )
    def pin(self, tokens, scope, pin_id, on_missing):
        version = self.pinned[pin_id][2] + 1 if pin_id in self.pinned else self.next_version()
        pins = self.rig.engine.tiers.pins
        try:
            report = pins.pin(
                ask(tokens, pin_id, version=version, scope=SCOPES[scope], on_missing=on_missing)
            )
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

    @rule(force=st.booleans())
    def clear(self, force):
        tiers = self.rig.engine.tiers
        tiers.drop(MEMORY, tiers.keys(MEMORY), force=force)

    @invariant()
    def pinned_tokens_are_found(self):
        tiers = self.rig.engine.tiers
        for pin_id, (tokens, scope, _) in self.pinned.items():
            report = tiers.pins.report(pin_id)
            found = tiers.covered(ask(tokens).tokens, SCOPES[scope])[MEMORY]
            assert report.tokens_pinned <= found

    @invariant()
    def bounds_hold(self):
        residents = self.rig.engine.tiers.memory.residents
        assert residents.used_bytes <= residents.capacity_bytes
        marked = sum(residents.size(key) for key in residents if residents.marked(key))
        assert residents.pinned_bytes == marked
        assert residents.reserved_bytes >= 0

    def teardown(self):
        engine = self.rig.engine
        engine.acknowledge(self.open)
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

    @staticmethod
    def expected(tokens, scope):
        from tests.engine.rig import kv

        return kv(tokens, SCOPES[scope])


CacheMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("LMCACHE_TEST_EXAMPLES", "40")),
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestCacheMachine = CacheMachine.TestCase

assert CHUNK_TOKENS == 16, "the prompt lengths above are chosen around the chunk"
