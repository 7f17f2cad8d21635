"""A point in monotonic time by which a call has to be over."""

from __future__ import annotations

import time

from lmcache_core.errors import DeadlineExceededError


class Deadline:
    """Handed down through calls so that each knows what is left, not the whole.

    Args:
        seconds: Length of the wait from now on.

    Attributes:
        seconds: The length it was made with.
    """

    __slots__ = ("_at", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = time.monotonic() + seconds

    @property
    def remaining_seconds(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self._at - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether no time is left."""
        return time.monotonic() >= self._at

    def check(self, what: str) -> None:
        """Raise when no time is left.

        Raises:
            DeadlineExceededError: The deadline has passed.
        """
        if self.expired:
            raise DeadlineExceededError(what, self.seconds)
