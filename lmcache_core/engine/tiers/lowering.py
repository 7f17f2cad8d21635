"""Chunks of host memory on their way to the tiers below it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from lmcache_core.engine.chunks.entry import Entry
from lmcache_core.engine.chunks.geometry import Geometry
from lmcache_core.engine.storage.tier import StorageTier
from lmcache_core.engine.tiers.admission import Admission
from lmcache_core.engine.tiers.memory import MemoryTier


class Lowering:
    """Writes chunks through, copies what was promoted, demotes what is evicted.

    A slot stays as it is until its frame is written or refused, and how much
    may wait so is bounded: what is written through may keep half of host
    memory from eviction, and what is demoted lives on in the staging part, so
    that whoever evicts has room at once. What is above the bounds is not
    written, and counted.

    Not thread-safe but for what storage tiers call: the engine's lock is held
    around every call.

    Args:
        memory: Host memory.
        admission: Which tiers may have what.
        geometry: The serving engine's blocks.
        frame: A chunk's frame where it lies.

    Attributes:
        waiting_bytes: Bytes of chunks in host memory that wait for a store.
    """

    def __init__(
        self,
        memory: MemoryTier,
        admission: Admission,
        *,
        geometry: Geometry,
        frame: Callable[[Entry], memoryview],
    ) -> None:
        self.waiting_bytes = 0
        self._memory = memory
        self._admission = admission
        self._geometry = geometry
        self._frame = frame
        # Frames that wait for a slow store keep their slots; they may not
        # come to take the cache.
        self._waiting_limit = memory.residents.capacity_bytes // 2

    def stored(self, entry: Entry) -> None:
        """Write a chunk that was computed to the tiers that are to have it at once."""
        self._admission.see(entry.key)
        for tier in self._admission.open_to(entry.tokens):
            through = tier.rules.write == "through"
            if self._admission.due(tier, entry.key, entry.tokens, wanted=through):
                self._write(entry, tier)

    def promoted(self, entry: Entry, source: StorageTier) -> None:
        """Copy a chunk that was read from a tier to those above it that want such copies."""
        if entry.staged:
            return
        for tier in self._admission.open_to(entry.tokens):
            if tier is source:
                return
            if self._admission.due(tier, entry.key, entry.tokens, wanted=tier.rules.promote):
                self._write(entry, tier)

    def used(self, entries: Iterable[Entry]) -> None:
        """Note a hit: what has now been seen often enough goes to the tiers that waited for it."""
        if not self._admission.counts:
            return
        for entry in entries:
            seen = self._admission.see(entry.key)
            for tier in () if entry.staged else self._admission.open_to(entry.tokens):
                rules = tier.rules
                due = rules.write == "through" and rules.min_reuse == seen > 1
                if self._admission.due(tier, entry.key, entry.tokens, wanted=due):
                    self._write(entry, tier)

    def demote(self, entry: Entry) -> bool:
        """Let a chunk that host memory is about to evict go down.

        Returns:
            Whether its slot is leased until it is there; it is to be staged then.
        """
        raw_bytes = self._geometry.frame_bytes(entry.tokens, entry.pages)
        nbytes = entry.slot.nbytes
        for tier in self._admission.below(None, entry.key, entry.tokens, raw_bytes):
            if not self._memory.begin_demotion(nbytes):
                tier.counters["demotions_dropped"] += 1
                return False
            if self._queue(entry, tier, partial(self._demoted, entry, tier)):
                return True
            self._memory.end_demotion(nbytes)
            tier.counters["demotions_dropped"] += 1
        return False

    def _write(self, entry: Entry, tier: StorageTier) -> None:
        nbytes = entry.slot.nbytes
        if self.waiting_bytes + nbytes > self._waiting_limit:
            tier.counters["put_skipped"] += 1
            return

        def done() -> None:
            self.waiting_bytes -= nbytes

        if self._queue(entry, tier, done):
            self.waiting_bytes += nbytes

    def _queue(self, entry: Entry, tier: StorageTier, settled: Callable[[], object]) -> bool:
        """Queue a chunk to be written; its slot is leased until then."""
        owner = f"put:{tier.name}"
        if entry.leases is not None and owner in entry.leases:
            return False  # It is on its way.

        def done() -> None:
            settled()
            self._memory.release((entry,), owner)

        self._memory.lease((entry,), owner)
        if tier.write(entry, self._frame(entry), done):
            return True
        self._memory.release((entry,), owner)
        return False

    def _demoted(self, entry: Entry, tier: StorageTier) -> None:
        self._memory.end_demotion(entry.slot.nbytes)
        tier.note_demotion(entry.key)
