"""Which of the tiers below host memory may have which chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from lmcache_core.engine.chunks.geometry import Geometry
from lmcache_core.engine.chunks.sightings import Sightings
from lmcache_core.engine.storage.tier import StorageTier
from lmcache_core.keys import Key

MAX_SIGHTINGS = 1 << 17
"""Chunks whose sightings are remembered, whether or not they are cached: about 24 MiB."""


class Admission:
    """The rules of the storage tiers, and what has to be remembered to follow them.

    Not thread-safe: the engine's lock is held around every call.

    Args:
        storage: The storage tiers, from the top.
        geometry: The serving engine's blocks.
        awaited: Whether a pin in the tier of a name waits for a chunk; what
            one waits for, a tier takes whatever its rules are.

    Attributes:
        raised: Whether the weights are no longer named by content, so that
            what outlives this process must not be found by another.
        demotes: Whether any tier takes what is evicted above it.
    """

    def __init__(
        self,
        storage: Sequence[StorageTier],
        *,
        geometry: Geometry,
        awaited: Callable[[str, Key], bool],
    ) -> None:
        self.raised = False
        self.demotes = any(tier.rules.write == "back" for tier in storage)
        self._storage = tuple(storage)
        self._geometry = geometry
        self._awaited = awaited
        counts = any(tier.rules.min_reuse > 1 for tier in storage)
        self._sightings = Sightings(MAX_SIGHTINGS) if counts else None

    @property
    def counts(self) -> bool:
        """Whether it matters how often a chunk is seen."""
        return self._sightings is not None

    def see(self, key: Key) -> int:
        """Count that a chunk was computed or hit; return how often it has been."""
        return 0 if self._sightings is None else self._sightings.see(key)

    def open_to(self, tokens: int) -> Iterator[StorageTier]:
        """Tiers that a chunk of some tokens may enter at all, from the top."""
        if self._geometry.may_leave(tokens):
            for tier in self._storage:
                if not (self.raised and tier.outlives_process):
                    yield tier

    def due(self, tier: StorageTier, key: Key, tokens: int, *, wanted: bool) -> bool:
        """Whether a tier is to have a chunk now.

        Args:
            tier: The tier.
            key: The chunk.
            tokens: Its tokens.
            wanted: Whether what has happened to it is what the tier waits for.
        """
        return self._awaited(tier.name, key) or (wanted and self._admits(tier, key, tokens))

    def below(
        self, upper: StorageTier | None, key: Key, tokens: int, raw_bytes: int
    ) -> Iterator[StorageTier]:
        """Tiers that would take a chunk which is evicted above them, from the top.

        There are none where it is below already.

        Args:
            upper: The tier that evicts it; None for host memory.
            key: The chunk.
            tokens: Its tokens.
            raw_bytes: Length of its frame in a slot.
        """
        passed = upper is None
        for tier in self.open_to(tokens) if self.demotes else ():
            if not passed:
                passed = tier is upper
            elif not tier.wants(key, raw_bytes):
                return
            elif self.due(tier, key, tokens, wanted=tier.rules.write == "back"):
                yield tier

    def _admits(self, tier: StorageTier, key: Key, tokens: int) -> bool:
        """Whether a tier's own rules let a chunk in, and count the answer."""
        rules = tier.rules
        if rules.min_tokens <= 1 and rules.min_reuse <= 1:
            return True
        admitted = tokens >= rules.min_tokens and (
            self._sightings is None
            or rules.min_reuse <= 1
            or self._sightings.count(key) >= rules.min_reuse
        )
        tier.counters["admitted_frames" if admitted else "refused_frames"] += 1
        return admitted
