"""Stores below host memory that a test can hold up, and what lies in each tier."""

from __future__ import annotations

import threading

from lmcache_core.config import TierRules
from lmcache_core.keys import Scope, tokens_to_bytes
from tests.engine.rig import CHUNK_TOKENS, FRAME_BYTES
from tests.engine.test_storage_tier import LONG, Watched, settle_reads
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
