"""Moves pages of an engine whose layers do not all share one block table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lmcache_core.api.connector import SlotCopy
from lmcache_core.memory.mover import PageMover


class GroupMover:
    """One page mover for each KV group; a copy goes to that of its group.

    Args:
        movers: The movers by number of the group, all of one region.
    """

    def __init__(self, movers: Sequence[PageMover]) -> None:
        self._movers = tuple(movers)

    def gather(self, copies: Sequence[SlotCopy]) -> int:
        """Copy pages into slots; see :meth:`PageMover.gather`.

        Returns:
            Bytes moved.

        Raises:
            LMCacheError: As there, and groups before the one that failed
                have been moved.
        """
        return self._each(copies, PageMover.gather)

    def scatter(self, copies: Sequence[SlotCopy]) -> int:
        """Copy pages out of slots; see :meth:`PageMover.scatter`.

        Returns:
            Bytes moved.

        Raises:
            LMCacheError: As for :meth:`gather`.
        """
        return self._each(copies, PageMover.scatter)

    def close(self) -> None:
        """Let go of the region; idempotent."""
        for mover in self._movers:
            mover.close()

    def _each(
        self,
        copies: Sequence[SlotCopy],
        move: Callable[[PageMover, Sequence[SlotCopy]], int],
    ) -> int:
        moved = 0
        for number, mover in enumerate(self._movers):
            own = [copy for copy in copies if copy.group == number]
            if own:
                moved += move(mover, own)
        return moved
