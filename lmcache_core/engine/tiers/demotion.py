"""What a storage tier evicts, on its way to a tier below."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from lmcache_core.api.frames import HEADER_BYTES
from lmcache_core.engine.chunks.entry import Carried
from lmcache_core.engine.chunks.geometry import Geometry, slot_size
from lmcache_core.engine.frames.reading import Read
from lmcache_core.engine.storage.holdings import Known
from lmcache_core.engine.storage.tier import StorageTier
from lmcache_core.engine.tiers.admission import Admission
from lmcache_core.engine.tiers.memory import MemoryTier
from lmcache_core.errors import LMCacheError
from lmcache_core.log import get_logger
from lmcache_core.memory import Slot

log = get_logger(__name__)


class Demotion:
    """Reads what a store is about to lose into the staging part, and queues it below.

    It runs on the writing thread of the tier that evicts. What cannot go down
    at once, for want of room, of a whole frame or of a store, is lost as it
    would be without a tier below, and counted there.

    Args:
        memory: Host memory, whose staging part is used.
        admission: Which tiers may have what.
        geometry: The serving engine's blocks.
        chunk_tokens: Tokens in a whole chunk.
        view: The first bytes of a slot.
        lock: The engine's lock.
    """

    def __init__(
        self,
        memory: MemoryTier,
        admission: Admission,
        *,
        geometry: Geometry,
        chunk_tokens: int,
        view: Callable[[Slot, int], memoryview],
        lock: AbstractContextManager[object],
    ) -> None:
        self._memory = memory
        self._admission = admission
        self._geometry = geometry
        self._chunk_tokens = chunk_tokens
        self._view = view
        self._lock = lock

    def take(self, upper: StorageTier, known: Known) -> None:
        """Take a frame down that is still in the store of a tier, and no longer found there."""
        tokens = known.facts.tokens or self._chunk_tokens
        frame_bytes = self._geometry.frame_bytes(tokens)
        if known.raw_bytes is not None and HEADER_BYTES <= known.raw_bytes < frame_bytes:
            frame_bytes = known.raw_bytes
        with self._lock:
            target = next(self._admission.below(upper, known.key, tokens, frame_bytes), None)
            if target is None:
                return
            slot = self._memory.borrow(slot_size(frame_bytes))
            if slot is None:
                target.counters["demotions_dropped"] += 1
                return
        entry = Carried(known.key, slot, upper.name)
        frame = self._view(slot, frame_bytes)
        whole = _fetch(upper, Read(entry, frame))
        with self._lock:
            if whole:
                frame = frame[: self._geometry.frame_bytes(entry.tokens, entry.pages)]
                if target.write(entry, frame, lambda: self._done(entry, target)):
                    return
            self._memory.give_back(slot)
            target.counters["demotions_dropped"] += 1

    def _done(self, entry: Carried, target: StorageTier) -> None:
        self._memory.give_back(entry.slot)
        target.note_demotion(entry.key)


def _fetch(tier: StorageTier, read: Read) -> bool:
    try:
        return tier.fetch(read)
    except LMCacheError as error:
        log.warning("tier.demotion_failed", tier=tier.name, error=str(error))
        return False
