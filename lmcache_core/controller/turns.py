"""One at a time by name."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from lmcache_core.api.deadline import Deadline
from lmcache_core.errors import DeadlineExceededError


class Turns:
    """Locks by name, each kept for as long as somebody has it or waits for it.

    Args:
        kind: What the names are of, for the message.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @contextlib.asynccontextmanager
    async def of(self, name: str, deadline: Deadline) -> AsyncIterator[None]:
        """Wait for a turn, and have it meanwhile.

        Raises:
            DeadlineExceededError: Others take longer.
        """
        lock, waiting = self._locks.get(name, (asyncio.Lock(), 0))
        self._locks[name] = (lock, waiting + 1)
        try:
            try:
                async with asyncio.timeout(deadline.remaining_seconds):
                    await lock.acquire()
            except TimeoutError as error:
                what = f"another change of {self._kind} {name!r}"
                raise DeadlineExceededError(what, deadline.seconds) from error
            try:
                yield
            finally:
                lock.release()
        finally:
            lock, waiting = self._locks.pop(name)
            if waiting > 1:
                self._locks[name] = (lock, waiting - 1)
