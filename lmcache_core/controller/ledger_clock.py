"""Unix time for deadlines, which tells when somebody has set the clock."""

from __future__ import annotations

import time
from collections.abc import Callable

JUMP_SECONDS = 1.0
"""A clock that is brought right little by little moves less between two readings."""


def boot_seconds() -> float:
    """Seconds since the machine started, those that it was suspended for included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LedgerClock:
    """Unix time, and how far it has moved without time passing.

    Args:
        wall: Unix time.
        elapsed: Seconds that nobody sets.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = boot_seconds,
    ) -> None:
        self.wall = wall
        self._elapsed = elapsed
        self._offset = wall() - elapsed()

    def jump(self) -> float:
        """Seconds by which the clock was set since this was last called, mostly 0."""
        before, self._offset = self._offset, self.wall() - self._elapsed()
        moved = self._offset - before
        return moved if abs(moved) > JUMP_SECONDS else 0.0
