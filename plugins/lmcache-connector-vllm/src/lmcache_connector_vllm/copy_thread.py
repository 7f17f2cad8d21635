"""The one background thread of a worker: reads blocks into slots."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from lmcache_core.api.connector import CopyJob
from lmcache_core.log import get_logger

log = get_logger(__name__)

MAX_QUEUED_JOBS = 1024
JOIN_SECONDS = 10.0


class _Work(NamedTuple):
    """A store, and what to wait for before its pages are complete."""

    job: CopyJob
    ready: Callable[[], None]


class CopyThread:
    """Runs stores in order, beside the steps, and keeps the outcome of each.

    A native copy holds no GIL, so the step goes on beside it. Closed by the
    worker's side; a daemon, because a server that dies without closing must
    not wait for it.

    Args:
        gather: Copies a job's pages.
    """

    def __init__(self, gather: Callable[[CopyJob], object]) -> None:
        self._gather = gather
        self._queue: queue.Queue[_Work | None] = queue.Queue(MAX_QUEUED_JOBS)
        self._outcome = threading.Condition()
        self._done: deque[int] = deque()
        self._failed: deque[int] = deque()
        self._open = 0
        self._thread = threading.Thread(target=self._run, name="lmcache-copy", daemon=True)
        self._thread.start()

    def submit(self, job: CopyJob, ready: Callable[[], None]) -> None:
        """Queue a store; where the queue is full it has failed at once.

        Args:
            job: What to copy.
            ready: Returns when the pages are complete; called on the thread.
        """
        with self._outcome:
            self._open += 1
        try:
            self._queue.put_nowait(_Work(job, ready))
        except queue.Full:
            self._finish(job.job_id, ok=False)

    def take(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Jobs done and jobs failed since the last call, or None."""
        if not self._done and not self._failed:
            return None
        with self._outcome:
            done, failed = tuple(self._done), tuple(self._failed)
            self._done.clear()
            self._failed.clear()
        return done, failed

    def wait(self, seconds: float) -> None:
        """Wait until a job has an outcome, none is open, or the time is up."""
        with self._outcome:
            self._outcome.wait_for(lambda: self._done or self._failed or not self._open, seconds)

    def close(self) -> None:
        """Let what is queued finish and end the thread; idempotent."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(JOIN_SECONDS)
            if self._thread.is_alive():
                log.error("copy_thread.stuck", seconds=JOIN_SECONDS)

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                work.ready()
                self._gather(work.job)
            except Exception:
                log.exception("store.failed", job=work.job.job_id)
                self._finish(work.job.job_id, ok=False)
            else:
                self._finish(work.job.job_id, ok=True)

    def _finish(self, job_id: int, *, ok: bool) -> None:
        with self._outcome:
            (self._done if ok else self._failed).append(job_id)
            self._open -= 1
            self._outcome.notify_all()
