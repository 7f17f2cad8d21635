"""The connections to one server."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lmcache_backend_redis.link import Link
from lmcache_core.api import Deadline
from lmcache_core.errors import DeadlineExceededError


class Pool:
    """At most so many connections, made when they are needed and used again.

    Args:
        make: Makes a connection, within a deadline.
        size: How many there may be.
    """

    def __init__(self, make: Callable[[Deadline], Link], size: int) -> None:
        self._make = make
        self._free = threading.BoundedSemaphore(size)
        self._idle: deque[Link] = deque()
        self._closed = False

    @contextmanager
    def link(self, deadline: Deadline) -> Iterator[Link]:
        """A connection for one exchange; what fails on it ends it, and those that idle.

        Raises:
            DeadlineExceededError: All are in use for that long, or a new one
                was not ready.
            RedisError: A new one cannot be made.
        """
        if not self._free.acquire(timeout=deadline.remaining_seconds):
            raise DeadlineExceededError("waiting for a connection", deadline.seconds)
        try:
            link = self._take() or self._make(deadline)
            try:
                yield link
            except BaseException:
                # What has become of one has most likely become of all.
                link.close()
                self._close_idle()
                raise
            self._idle.append(link)
            if self._closed:
                self._close_idle()
        finally:
            self._free.release()

    def close(self) -> None:
        """End them all; those in use when they come back."""
        self._closed = True
        self._close_idle()

    def _take(self) -> Link | None:
        while True:
            try:
                link = self._idle.pop()
            except IndexError:
                return None
            if not link.stale:
                return link
            link.close()

    def _close_idle(self) -> None:
        while True:
            try:
                self._idle.pop().close()
            except IndexError:
                return
