"""Whether a disk works, and when to try one again that does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from lmcache_core.log import get_logger

log = get_logger(__name__)

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0


class Health:
    """The state of one disk, told in the log when it changes and not again and again.

    Several threads use it; what they may get wrong between them is one try
    more or less.

    Args:
        path: Whose it is, for the log.
        clock: Monotonic seconds.

    Attributes:
        reason: Why it does not work; None where it does.
        full: Whether it had no room when it was written to last.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = str(path)
        self._clock = clock
        self._pause = 0.0
        self._again_at = 0.0
        self.reason: str | None = None
        self.full = False

    def works(self) -> bool:
        """Whether it may be used; one that failed may be tried when its pause is over."""
        if self.reason is None:
            return True
        now = self._clock()
        if now < self._again_at:
            return False
        self._again_at = now + self._pause
        return True

    def failed(self, reason: str) -> None:
        """Leave it alone, for twice as long as last time."""
        if self.reason is None:
            log.error("disk.failing", path=self._path, reason=reason)
        self.reason = reason
        self._pause = min(max(2 * self._pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        self._again_at = self._clock() + self._pause

    def answered(self) -> bool:
        """Note that it has done what was asked; True where it had not the time before."""
        if self.reason is None:
            return False
        log.info("disk.works_again", path=self._path, reason=self.reason)
        self.reason, self._pause = None, 0.0
        return True

    def has_room(self, *, room: bool) -> None:
        """Note that it takes what is written again, or no longer."""
        log.warning("disk.has_room" if room else "disk.full", path=self._path)
        self.full = not room
