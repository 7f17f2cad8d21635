"""A circuit breaker: a store that fails or stalls is left alone for a while."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0


class Breaker:
    """Closed while calls succeed; open for a growing pause after a failure.

    When the pause is over one caller is let through; its success closes the
    breaker, its failure doubles the pause. Not thread-safe: the engine's lock
    is held around every call.

    Args:
        clock: Monotonic seconds.

    Attributes:
        failures: How many there have been, so that who has waited can tell
            whether there was one meanwhile.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pause = 0.0
        self._closed_again_at = 0.0
        self.failures = 0

    @property
    def healthy(self) -> bool:
        """Whether the last call succeeded."""
        return self._pause == 0.0

    @property
    def pause_seconds(self) -> float:
        """How long the store is left alone after its last failure; 0 while it is healthy."""
        return self._pause

    def allows(self) -> bool:
        """Whether a call may be made now; while open, one per pause may."""
        if self._pause == 0.0:
            return True
        now = self._clock()
        if now < self._closed_again_at:
            return False
        self._closed_again_at = now + self._pause
        return True

    def succeeded(self) -> None:
        """Close the breaker."""
        self._pause = 0.0

    def failed(self) -> None:
        """Open the breaker, for twice as long as last time."""
        self.failures += 1
        self._pause = min(max(self._pause * 2, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        self._closed_again_at = self._clock() + self._pause
