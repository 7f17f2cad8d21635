"""Three tiers over stores that are slow, full and away now and then, with nobody waiting for them.

Everywhere else tests wait for the tiers' threads. Here the threads run as they
do in the field, and what is demanded in the end is that nothing was served
that was not stored, that nothing is under way, and that what the tiers say
they hold is what the stores have.
"""

from __future__ import annotations

import random
import time

import pytest

from lmcache_core.api import Capability, PutStatus
from lmcache_core.api.pins import OnMissing
from lmcache_core.config import TierRules
from lmcache_core.errors import BackendError
from tests.engine.hierarchy.commander import Commander
from tests.engine.hierarchy.stores import Gated, nothing_is_under_way, settle
from tests.engine.hybrid_rig import HybridRig, windows
from tests.engine.rig import Rig, storage_spec
from tests.engine.serdes import SIGNED, ZLIB, chain

OPERATIONS = 250
SLOWEST_SECONDS = 0.004


class Unsteady(Gated):
    """A store with moods, until it is told to be good."""

    def __init__(self, rng):
        super().__init__()
        self._rng = rng
        self.good = False

    def _mood(self):
        if self.good:
            return 1.0
        time.sleep(self._rng.random() * SLOWEST_SECONDS)  # so slow it is
        mood = self._rng.random()
        if mood < 0.03:
            raise BackendError("away")
        return mood

    def put(self, keys, frames, deadline):
        if self._mood() < 0.06:
            return [PutStatus.FULL for _ in keys]
        return super().put(keys, frames, deadline)

    def get(self, keys, buffers, deadline):
        self._mood()
        return super().get(keys, buffers, deadline)


def make_rig(seed, stores):
    """Windows or none, serdes or none, both ways of writing."""
    near = {"rules": TierRules(write="back", promote=seed % 3 == 0)}
    far = {"rules": TierRules(write="back", promote=False, min_reuse=1 + seed % 2)}
    if seed % 4 > 1:
        near |= chain("zlib")
        far |= chain("zlib", "signed")
    fields = {
        "chunks": 6,
        "staging_chunks": 4,
        "storage": [
            storage_spec(name, lambda _config, _context, store=store: store, Capability.NONE)
            for name, store in stores.items()
        ],
        "storage_chunks": 6,
        "offers": [ZLIB, SIGNED],
        "tier_fields": {"near": near, "far": far},
        "overrides": {"promotion_timeout_seconds": 0.02},
    }
    if seed % 2:
        return HybridRig(groups=windows((4, None), (2, 7), (8, 12), token_bytes=512), **fields)
    return Rig(block_bytes=4096, **fields)


def disturb(rig, rng, commander, tokens, number):
    """What operators do meanwhile, now and then."""
    tiers = rig.engine.tiers
    location = rng.choice(tiers.locations)
    kind = rng.random()
    if kind < 0.05:
        tiers.drop(location, tiers.keys(location), force=rng.random() < 0.5)
    elif kind < 0.1:
        on_missing = rng.choice([OnMissing.PARTIAL, OnMissing.RESERVE])
        commander.pin(tokens, str(number), seconds=0.02, location=location, on_missing=on_missing)
    elif kind < 0.16 and (pin_ids := tiers.pins.ids()):
        with tiers.lock:
            tiers.pins.unpin(rng.choice(pin_ids), 1_000_000)
    elif kind < 0.17:
        rig.engine.reset()


@pytest.mark.parametrize("seed", range(6))
def test_what_is_served_is_right_and_what_is_said_to_be_there_is(seed):
    rng = random.Random(seed)
    stores = {name: Unsteady(random.Random(f"{name}{seed}")) for name in ("near", "far")}
    hits = 0
    with make_rig(seed, stores) as rig:
        commander = Commander(rig)
        for number in range(OPERATIONS):
            family, length = rng.randrange(12), rng.choice([16, 20, 32, 33, 47, 48, 64])
            tokens = [family * 1000 + i for i in range(length)]
            hits += rig.serve(tokens, steps=rng.choice([5, 16, 100]))
            disturb(rig, rng, commander, tokens, number)
        for store in stores.values():
            store.good = True
        settle(rig)
        settle(rig)
        assert hits
        assert nothing_is_under_way(rig)
        for tier, store in zip(rig.engine.tiers.storage, stores.values(), strict=True):
            there = {key: len(frame) for key, frame in store._store.frames.items()}
            assert {key: tier.residents.size(key) for key in tier.residents} == there
            assert tier.residents.used_bytes == sum(there.values())
            assert tier.residents.used_bytes <= tier.residents.capacity_bytes
            assert tier.counters["damaged_frames"] == 0
