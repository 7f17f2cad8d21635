"""An event loop on a thread of its own, for calls that have to end in time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from lmcache_core.api import Deadline
from lmcache_core.errors import BackendError, DeadlineExceededError
from lmcache_core.log import get_logger

log = get_logger(__name__)

CLOSE_SECONDS = 5.0

Answer = TypeVar("Answer")


class EventLoop:
    """Runs requests for threads that wait for them no longer than they may.

    A blocking call of obstore ends when its client's timeout is over, which is
    fixed when the client is made. A request that is awaited is dropped, its
    connection with it, as soon as its caller stops waiting.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=self._name, daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, Answer]) -> Future[Answer]:
        """Start work whose future the caller cancels when it stops waiting.

        Raises:
            BackendError: The loop does not run.
        """
        if self._loop is None:
            work.close()
            message = "the object store is not open; open it, or make a new one where it was closed"
            raise BackendError(message)
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, Answer], deadline: Deadline, what: str) -> Answer:
        """Wait for work to be done.

        Raises:
            DeadlineExceededError: It was not done in time, and has been
                cancelled.
        """
        future = self.submit(work)
        try:
            return future.result(deadline.remaining_seconds)
        except TimeoutError:
            raise DeadlineExceededError(what, deadline.seconds) from None
        finally:
            future.cancel()

    def close(self) -> None:
        """Cancel what is under way and end the thread, within a bound; idempotent."""
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(_stop(), loop)
        thread.join(CLOSE_SECONDS)
        if thread.is_alive():
            log.warning("objects.loop_abandoned", thread=self._name)
        else:
            loop.close()


async def _stop() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    asyncio.get_running_loop().stop()
