"""Transfers between vLLM's host memory and a store, on threads of their own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from vllm.v1.kv_offload.tiering.base import JobResult, TransferJob

from lmcache_core.errors import BackendError
from lmcache_core.keys import Key
from lmcache_core.log import get_logger

log = get_logger(__name__)

CLOSE_SECONDS = 10.0
"""How long closing waits for copies under way; what waits for a store is woken."""


class Work(NamedTuple):
    """A job of vLLM's, and what its blocks are called in the store.

    Attributes:
        job: The job.
        keys: The names, in the order of its keys.
    """

    job: TransferJob
    keys: list[Key]


class Done(NamedTuple):
    """A job that has ended.

    Attributes:
        work: The job.
        moved: For each block whether it was moved.
        result: What vLLM is told.
    """

    work: Work
    moved: list[bool]
    result: JobResult


Transfer = Callable[[Work], list[bool]]


class Jobs:
    """Does jobs in the order of their coming, one at a time for each thread.

    The queue is as bounded as vLLM's host memory, of which every job holds a
    part.

    Args:
        name: The threads' name.
        transfer: Moves a job's blocks; for each whether it was moved.
        block_bytes: Length of a block.
        threads: How many.
    """

    def __init__(self, name: str, transfer: Transfer, block_bytes: int, threads: int) -> None:
        self._transfer = transfer
        self._block_bytes = block_bytes
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[Done] = queue.SimpleQueue()
        self._idle = threading.Condition()
        self._unfinished = 0
        self._closing = False
        self._threads = [
            threading.Thread(target=self._work, name=name, daemon=True) for _ in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Work) -> None:
        """Queue a job."""
        with self._idle:
            self._unfinished += 1
        self._queue.put(work)

    def finished(self) -> list[Done]:
        """Jobs that are done since this was last asked."""
        done = []
        while True:
            try:
                done.append(self._finished.get_nowait())
            except queue.Empty:
                return done

    def drain(self) -> None:
        """Wait until every job is done; each is within the deadlines of its store."""
        with self._idle:
            self._idle.wait_for(lambda: self._unfinished == 0)

    def stop(self) -> None:
        """Begin no more jobs; those that are queued fail."""
        self._closing = True
        for _ in self._threads:
            self._queue.put(None)

    def join(self) -> None:
        """Wait for the threads.

        Raises:
            BackendError: One is still at work; the memory must stay.
        """
        for thread in self._threads:
            thread.join(CLOSE_SECONDS)
        if any(thread.is_alive() for thread in self._threads):
            raise BackendError(
                f"a transfer of {self._threads[0].name} has not ended after {CLOSE_SECONDS:g} s"
            )

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            began = time.monotonic()
            moved = [False] * len(work.keys)
            if not self._closing:
                try:
                    moved = self._transfer(work)
                except Exception:
                    # It would end the thread, and vLLM would wait for the job for ever.
                    log.exception("offload.job_failed", job=work.job.job_id)
            seconds = time.monotonic() - began
            self._finished.put(Done(work, moved, self._result(work.job, moved, seconds)))
            with self._idle:
                self._unfinished -= 1
                self._idle.notify_all()

    def _result(self, job: TransferJob, moved: list[bool], seconds: float) -> JobResult:
        keys = [key for key, ok in zip(job.keys, moved, strict=True) if ok]
        return JobResult(
            job_id=job.job_id,
            success=all(moved),
            successful_keys=keys if job.is_promotion and not all(moved) else None,
            transfer_time=seconds,
            transfer_bytes=len(keys) * self._block_bytes,
        )
