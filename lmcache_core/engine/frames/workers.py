"""Threads that do what is queued for them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

QUEUE_LENGTH = 1024
"""Jobs that may wait; more are refused."""

CLOSE_SECONDS = 2.0
"""How long closing waits for jobs under way."""

Job = Callable[[], object]


class Workers:
    """A bounded queue and the threads that empty it, in order where there is one.

    Args:
        name: The threads' name.
        threads: How many.
    """

    def __init__(self, name: str, threads: int = 1) -> None:
        self._name = name
        self._jobs: queue.Queue[Job | None] = queue.Queue(QUEUE_LENGTH)
        self._count = threads
        self._threads: list[threading.Thread] = []

    @property
    def running(self) -> bool:
        """Whether anybody does what is queued."""
        return bool(self._threads)

    def start(self) -> None:
        """Start the threads."""
        for _ in range(self._count):
            # Daemons: a call that never returns must not keep the serving
            # process from exiting.
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def submit(self, job: Job) -> bool:
        """Queue a job; False where too many wait."""
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            return False
        return True

    def close(self) -> bool:
        """Finish what is queued, within a bound; False where a thread is still busy."""
        try:
            for _ in self._threads:
                self._jobs.put(None, timeout=CLOSE_SECONDS)
        except queue.Full:
            return False
        end = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        return not self._threads

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
