"""What a connector is to be told of chunks that come and go."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from lmcache_core.api.connector import ChunkChange
from lmcache_core.log import get_logger

log = get_logger(__name__)

MAX_CHANGES = 1 << 16
"""Changes kept while nobody takes them: about 100 MiB with their tokens."""


class ChangeLog:
    """A bounded queue of changes; it keeps none until somebody follows.

    Not thread-safe: the engine's lock is held around every call.

    Attributes:
        followed: Whether changes are kept.
    """

    def __init__(self) -> None:
        self.followed = False
        self._changes: deque[ChunkChange] = deque(maxlen=MAX_CHANGES)
        self._lost = 0

    def note(self, change: ChunkChange) -> None:
        """Keep a change."""
        if len(self._changes) == MAX_CHANGES:
            self._lost += 1
        self._changes.append(change)

    def take(self) -> Sequence[ChunkChange]:
        """Remove and return all changes, in order."""
        if self._lost:
            log.warning("changes.lost", changes=self._lost)
            self._lost = 0
        if not self._changes:
            return ()
        changes = tuple(self._changes)
        self._changes.clear()
        return changes
