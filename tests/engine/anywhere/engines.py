"""Engines over host memory, a disk and a store that others use, and pins in any tier of theirs."""

from __future__ import annotations

from pathlib import Path

from lmcache_core.api import BackendContext, Capability
from lmcache_core.api.pins import PinRequest
from lmcache_core.config import ANYWHERE, TierConfig, TierRules
from lmcache_core.keys import EMPTY_SCOPE, tokens_to_bytes
from lmcache_core.testing import DictBackend, DictConfig, DictStore
from tests.engine.rig import CHUNK_TOKENS, FRAME_BYTES, SLOT_BYTES, Rig, storage_spec
from tests.engine.test_pins import MEMORY, ask
from tests.engine.test_storage_tier import LONG, settle

DISK, SHARED = "LocalDiskBackend", "shared"
OTHER = list(range(7000, 7000 + 4 * CHUNK_TOKENS))


class Engine:
    """Engines over a disk and a store that others use, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = DictStore()

    def start(
        self,
        *,
        memory: int = 10,
        disk: int = 10,
        share: float = 0.8,
        shared: bool = False,
        write: str = "through",
    ) -> Rig:
        def make(*_: object) -> DictBackend:
            return DictBackend(DictConfig(), BackendContext(instance_id="rig", tier=SHARED), store)

        store = self.store
        options = {"path": str(self.folder), "scrub_rate": 0}
        tiers = [
            TierConfig(MEMORY, memory * SLOT_BYTES),
            TierConfig(DISK, disk * FRAME_BYTES, options, rules=TierRules(write, promote=False)),
        ]
        if shared:
            tiers.append(TierConfig(SHARED))
        spec = storage_spec(SHARED, make, Capability.SHARED | Capability.SELF_EVICTING)
        return Rig(
            chunks=memory,
            offers=[spec],
            overrides={"tiers": tuple(tiers), "instance_id": "rig", "pin_share": share},
        )


def anywhere(tokens, pin_id="p", **fields) -> PinRequest:
    return ask(tokens, pin_id, **{"location": ANYWHERE, **fields})


def pin(rig, tokens=LONG, pin_id="p", **fields):
    with rig.engine.tiers.lock:
        return rig.engine.tiers.pins.pin(anywhere(tokens, pin_id, **fields))


def unpin(rig, pin_id="p", version=1):
    with rig.engine.tiers.lock:
        return rig.engine.tiers.pins.unpin(pin_id, version)


def report(rig, pin_id="p"):
    with rig.engine.tiers.lock:
        return rig.engine.tiers.pins.report(pin_id)


def store(rig, tokens=LONG):
    rig.serve(tokens)
    settle(rig)


def press(rig, base=100_000):
    """Compute more than any tier of the engine's own has room for."""
    for number in range(12):
        store(rig, [base + number * 100 + n for n in range(CHUNK_TOKENS)])


def clear(rig, location, *, force=True):
    tiers = rig.engine.tiers
    dropped = tiers.drop(location, tiers.keys(location), force=force)
    settle(rig)
    return dropped


def keys(rig, tokens=LONG):
    return rig.engine.tiers.chain_of(tokens_to_bytes(tokens), EMPTY_SCOPE).keys


def pinned(rig):
    """Bytes that pins take, by tier."""
    return [tier.pinned_bytes for tier in rig.engine.tiers.status()]
