"""Encoding the chunks of a sequence, or all of a tier, in another way where they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from lmcache_core.engine.storage.recast import Outcome, Recast, Recoded
from lmcache_core.engine.storage.tier import StorageTier
from lmcache_core.engine.tiers.stack import TierStack
from lmcache_core.keys import Key

KEYS_AT_ONCE = 256
"""Frames handed to the tier together; it says how many of them its time was enough for."""


class Recoding:
    """One such; whoever began it calls :meth:`advance` until it is done.

    The tier bounds the rate, and goes on with its writes between two bursts.

    Args:
        tiers: The instance's tiers.
        tier: The tier.
        keys: The chunks.
        recast: How they are to be encoded.
        progressed: Called, with the engine's lock held, when it can go on.

    Attributes:
        tokens: Tokens that were encoded anew.
        done: Chunks that were looked at.
        total: All of them.
    """

    def __init__(
        self,
        tiers: TierStack,
        tier: StorageTier,
        keys: Iterable[Key],
        recast: Recast,
        *,
        progressed: Callable[[], None],
    ) -> None:
        self.tokens = 0
        self.done = 0
        self._tiers = tiers
        self._tier = tier
        self._keys = list(keys)
        self._recast = recast
        self._progressed = progressed
        self._outcomes: Counter[Outcome] = Counter()
        self._saved_bytes = 0
        self._under_way = False
        self._ended = False

    @property
    def total(self) -> int:
        """See above."""
        return len(self._keys)

    @property
    def finished(self) -> bool:
        """Whether all chunks were looked at."""
        return self.done == self.total

    @property
    def failed(self) -> int:
        """Chunks that the store has failed with."""
        return self._outcomes[Outcome.FAILED]

    @property
    def facts(self) -> dict[str, int]:
        """What has become of how many chunks, and by how many bytes the tier has less."""
        counted = {f"{outcome.value}_chunks": self._outcomes[outcome] for outcome in Outcome}
        return {**counted, "left_chunks": self.total - self.done, "saved_bytes": self._saved_bytes}

    def advance(self) -> bool:
        """Begin with chunks as far as that is due; True when nothing is left to do."""
        with self._tiers.lock:
            if self._under_way:
                return False
            if self._ended or self.finished:
                return True
            part = self._keys[self.done : self.done + KEYS_AT_ONCE]
            self._under_way = self._tier.recoder.recode(part, self._recast, self._note)
            return False

    def end(self) -> None:
        """Begin with no more chunks; what is under way is done behind, and not counted."""
        self._ended = True

    def _note(self, recoded: list[Recoded]) -> None:
        self._under_way = False
        self.done += len(recoded)
        residents = self._tier.residents
        for key, outcome, tokens, saved_bytes in recoded:
            self._outcomes[outcome] += 1
            self.tokens += tokens
            self._saved_bytes += saved_bytes
            if outcome is Outcome.RECODED and residents.marked(key):
                # Their reports say how many bytes they hold.
                self._tiers.pins.note_resized(self._tier.name, key)
        self._progressed()
