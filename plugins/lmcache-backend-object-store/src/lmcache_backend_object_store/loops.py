"""Event loops in the threads that call, for requests that have to end in time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from lmcache_core.api import Deadline
from lmcache_core.errors import BackendError, DeadlineExceededError

LOOK_SECONDS = 0.1
"""How often a call under way looks whether it is cancelled."""

Answer = TypeVar("Answer")


class EventLoops:
    """Runs requests in the thread that waits for them, no longer than it may.

    A blocking call of obstore ends when its client's timeout is over, which is
    fixed when the client is made. A request that is awaited is dropped, its
    connection with it, as soon as its caller stops waiting. The loop runs in
    the caller's own thread: one in another thread has to be woken for every
    answer and to wake the caller, which on a busy machine took a third of the time
    of reading a frame. So nothing runs, and nothing is written into a buffer,
    when no call is under way.

    There are as many loops as calls at a time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[asyncio.AbstractEventLoop] = []
        self._open = False

    def open(self) -> None:
        """Let calls be made."""
        self._open = True

    def run(self, work: Coroutine[Any, Any, Answer], deadline: Deadline, what: str) -> Answer:
        """Do work within a deadline.

        Raises:
            BackendError: The loops are not open.
            DeadlineExceededError: It was not done in time, or nobody waits for it
                any more; it has been cancelled.
        """
        loop = self._take(work)
        try:
            return loop.run_until_complete(_within(deadline, work))
        except TimeoutError:
            raise DeadlineExceededError(what, deadline.seconds) from None
        finally:
            self._give_back(loop)

    def close(self) -> None:
        """Close the loops; those in use follow when their call is over; idempotent."""
        with self._lock:
            self._open = False
            idle, self._idle = self._idle, []
        for loop in idle:
            loop.close()

    def _take(self, work: Coroutine[Any, Any, Answer]) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._open:
                return self._idle.pop() if self._idle else asyncio.new_event_loop()
        work.close()
        message = "the object store is not open; open it, or make a new one where it was closed"
        raise BackendError(message)

    def _give_back(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            if self._open:
                self._idle.append(loop)
                return
        loop.close()


async def _within(deadline: Deadline, work: Coroutine[Any, Any, Answer]) -> Answer:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(deadline.remaining_seconds) as limit:
        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal timer
            if deadline.cancelled:
                limit.reschedule(loop.time())
            else:
                timer = loop.call_later(LOOK_SECONDS, look)

        timer = loop.call_later(LOOK_SECONDS, look)
        try:
            return await work
        finally:
            timer.cancel()
