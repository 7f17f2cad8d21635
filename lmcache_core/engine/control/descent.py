"""Bringing what host memory has of a sequence down to the tier where it is to be pinned."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from lmcache_core.engine.chunks.piece import Piece, Pieces
from lmcache_core.engine.control.moving import CHUNKS_AT_ONCE
from lmcache_core.engine.storage.tier import StorageTier
from lmcache_core.engine.tiers.stack import TierStack
from lmcache_core.keys import KeyChain


class Descent:
    """One such; whoever began it calls :meth:`advance` until it is done.

    A pin in a storage tier covers what is there, and a tier that is written
    back to is given a chunk only when host memory evicts it. So a pin brings
    down what host memory has, and waits for what is on its way; the tier's
    admission is not asked, because somebody wants it there.

    Args:
        tiers: The instance's tiers.
        target: The tier.
        chain: The sequence.
        name: Names the leases.
        progressed: Called, with the engine's lock held, when it can go on.
    """

    def __init__(
        self,
        tiers: TierStack,
        target: StorageTier,
        chain: KeyChain,
        *,
        name: str,
        progressed: Callable[[], None],
    ) -> None:
        self._tiers = tiers
        self._target = target
        self._owner = f"pin:{name}"
        self._progressed = progressed
        self._under_way = 0
        self._pieces = deque(Pieces(chain, chain.all_bytes()))

    def advance(self) -> bool:
        """Begin with chunks as far as that is due; True when nothing is left to do."""
        with self._tiers.lock:
            while self._pieces and self._under_way < CHUNKS_AT_ONCE:
                self._begin(self._pieces.popleft())
            return not self._under_way and not self._pieces

    def end(self) -> None:
        """Begin with no more chunks; those under way are written behind."""
        self._pieces.clear()

    def _begin(self, piece: Piece) -> None:
        tiers = self._tiers
        entry = tiers.memory.index.get(piece.key)
        if entry is None or not tiers.geometry.may_leave(entry.tokens):
            return

        def done() -> None:
            tiers.memory.release((entry,), self._owner)
            self._under_way -= 1
            self._progressed()

        tiers.memory.lease((entry,), self._owner)
        self._under_way += 1
        if not self._target.write(entry, tiers.frame(entry), done):
            tiers.memory.release((entry,), self._owner)
            self._under_way -= 1
