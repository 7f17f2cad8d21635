"""A point in monotonic time by which a call has to be over."""

from __future__ import annotations

import threading
import time

from lmcache_core.errors import DeadlineExceededError


class Deadline:
    """Handed down through calls so that each knows what is left, not the whole.

    A call that is cancelled, because its tier closes and has waited long
    enough, has no time left; ``cancelled`` tells why.

    Args:
        seconds: Length of the wait from now on.
        cancel: Set by whoever waits, to end the wait early.

    Attributes:
        seconds: The length it was made with.
    """

    __slots__ = ("_at", "_cancel", "seconds")

    def __init__(self, seconds: float, cancel: threading.Event | None = None) -> None:
        self.seconds = seconds
        self._at = time.monotonic() + seconds
        self._cancel = cancel

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the call any more, whatever the time."""
        return self._cancel is not None and self._cancel.is_set()

    @property
    def remaining_seconds(self) -> float:
        """Seconds left, never below zero."""
        return 0.0 if self.cancelled else max(0.0, self._at - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether no time is left."""
        return self.cancelled or time.monotonic() >= self._at

    def check(self, what: str) -> None:
        """Raise when no time is left.

        Raises:
            DeadlineExceededError: The deadline has passed, or the call is
                cancelled.
        """
        if self.expired:
            raise DeadlineExceededError(what, self.seconds)
