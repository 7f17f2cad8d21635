"""The engine that is killed: little memory over a disk with little room, under load."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from lmcache_backend_local_disk.backend import LocalDiskBackend
from lmcache_backend_local_disk.calls import SystemCalls
from lmcache_core.api import StorageBackendSpec
from lmcache_core.config import TierConfig
from tests.disk.calls_between import KillingCalls
from tests.engine.rig import Rig
from tests.engine.test_storage_tier import settle, settle_reads
from tests.pins.child import KillPlan, Lines, Say
from tests.pins.prompts import PROMPTS, flooding, prompt
from tests.pins.world import (
    BLOCK_BYTES,
    DISK,
    FRAME_BYTES,
    GROUP,
    INSTANCE,
    MEMORY,
    SLOT_BYTES,
    installed,
    settle_records,
)

MEMORY_CHUNKS, DISK_CHUNKS = 8, 20


class ArmedCalls(KillingCalls):
    """The system's calls, which kill the process once that is ordered."""

    def __init__(self) -> None:
        super().__init__("", "after", 0)

    def arm(self, plan: KillPlan) -> None:
        self.point, self.when, self.left = plan.point or "", plan.when, plan.nth


def make_engine(folder: Path, calls: SystemCalls, address: str | None) -> Rig:
    """An engine with little memory over a disk with little room."""

    def backend(config: Any, context: Any) -> LocalDiskBackend:
        return LocalDiskBackend(config, context, calls)

    spec = installed().storage_backend(DISK)
    options = {"path": str(folder), "scrub_rate": 0}
    overrides: dict[str, object] = {
        "tiers": (
            TierConfig(MEMORY, MEMORY_CHUNKS * SLOT_BYTES),
            TierConfig(DISK, DISK_CHUNKS * FRAME_BYTES, options),
        ),
        "instance_id": INSTANCE,
        "heartbeat_seconds": 0.1,
    }
    if address is not None:
        overrides |= {"enable_controller": True, "controller_url": address}
    return Rig(
        chunks=MEMORY_CHUNKS,
        block_bytes=BLOCK_BYTES,
        groups=[GROUP],
        overrides=overrides,
        registry=PluginsWith(spec, backend),
    )


class PluginsWith:
    """The installed plugins, with another way to make the disk's backend."""

    def __init__(self, spec: StorageBackendSpec, make: Any) -> None:
        self._spec = msgspec.structs.replace(spec, load=lambda: make)

    def storage_backend(self, name: str) -> StorageBackendSpec:
        return self._spec if name == DISK else installed().storage_backend(name)

    def __getattr__(self, name: str) -> Any:
        return getattr(installed(), name)


def serve_some(rig: Rig, rng: random.Random, floods: Iterator[int]) -> None:
    """Serve a prompt; what is loaded is compared with what computing it gives."""
    if rng.random() < 0.4:
        rig.serve(flooding(next(floods)))
    else:
        rig.serve(prompt(rng.randrange(PROMPTS)))


def live_engine(folder: Path, address: str, plan: KillPlan, orders: int, say: Say) -> None:
    """Serve when told to."""
    calls = ArmedCalls()
    calls.arm(plan)
    rig = make_engine(folder, calls, address)
    say("up")
    lines = Lines(orders)
    rng, floods, works = random.Random(0), itertools.count(), False
    while True:
        for line in lines.come(0 if works else None):
            order, _, rest = line.partition(" ")
            if order == "go":
                rng, works = random.Random(rest), True
                floods = itertools.count(rng.randrange(1 << 20))
            elif order == "kill":
                calls.arm(KillPlan(*json.loads(rest)))
            else:
                works = False
                say("seen " + json.dumps(engine_has(rig)))
        if works:
            serve_some(rig, rng, floods)


def engine_has(rig: Rig) -> dict[str, Any]:
    """What the engine holds, once all that was asked of its disk is done."""
    settle_reads(rig)
    settle(rig)
    settle_records(rig)
    tiers = rig.engine.tiers
    with tiers.lock:
        residents = tiers.tier(DISK).residents
        pins = {
            request.pin_id: [request.version, request.location, report.tokens_pinned]
            for request, report in tiers.pins.held(tiers.pins.ids())
        }
        frames = {key.hex(): residents.size(key) for key in residents}
        taken = {
            name: [
                tier.residents.pinned_bytes + tier.residents.reserved_bytes,
                tier.residents.used_bytes + tier.residents.record_bytes,
                tier.residents.capacity_bytes,
            ]
            for name, tier in ((name, tiers.tier(name)) for name in tiers.locations)
        }
    damaged = tiers.tier(DISK).counters["damaged_frames"]
    return {
        "pins": pins,
        "frames": frames,
        "records": residents.record_bytes,
        "taken": taken,
        "damaged": damaged,
    }
