"""Copies that workers have been asked for and have not acknowledged."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable
from typing import NamedTuple

from lmcache_core.engine.chunks.entry import Entry
from lmcache_core.keys import Key
from lmcache_core.log import get_logger

log = get_logger(__name__)


class Job(NamedTuple):
    """One job.

    Attributes:
        job_id: Its name, unique in this process.
        store: True for a store, False for a load.
        entries: What is written or read.
        owner: Who holds the leases of a load: the job itself.
        due: Monotonic time after which it counts as stranded.
    """

    job_id: int
    store: bool
    entries: tuple[Entry, ...]
    owner: str
    due: float


class JobBook:
    """Open jobs and the chunks that are being written.

    A job that is not acknowledged in time frees nothing: its slots may still
    be written. It counts as stranded, and while too much is, no store is
    planned.

    Not thread-safe: the engine's lock is held around every call.

    Args:
        timeout_seconds: When a job counts as stranded.
        clock: Monotonic seconds.
    """

    def __init__(self, timeout_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout = timeout_seconds
        self._clock = clock
        self._jobs: dict[int, Job] = {}
        self._writing: dict[Key, Entry] = {}
        self._next_id = 1
        self._alarmed = 0

    def __len__(self) -> int:
        """Number of open jobs."""
        return len(self._jobs)

    def writing(self, key: Key) -> bool:
        """Whether a chunk is being written."""
        return key in self._writing

    def open(self, entries: Iterable[Entry], *, store: bool) -> Job:
        """Open a job."""
        due = self._clock() + self._timeout
        job = Job(self._next_id, store, tuple(entries), f"job:{self._next_id}", due)
        self._next_id += 1
        self._jobs[job.job_id] = job
        if store:
            for entry in job.entries:
                self._writing[entry.key] = entry
        return job

    def close(self, job_id: int) -> Job | None:
        """Close a job; None for one that is not open."""
        job = self._jobs.pop(job_id, None)
        if job is not None and job.store:
            for entry in job.entries:
                del self._writing[entry.key]
        return job

    def stores_under(self, parents: Container[Key]) -> bool:
        """Whether a child of any of these chunks is being written."""
        return any(entry.parent in parents for entry in self._writing.values())

    def stranded_bytes(self) -> int:
        """Bytes of the slots of jobs whose time is up; the alarm is logged once a job."""
        now = self._clock()
        total = stranded = 0
        # Jobs are in the order they were opened and all have the same length.
        for job in self._jobs.values():
            if job.due > now:
                break
            stranded += 1
            total += sum(entry.slot.nbytes for entry in job.entries)
        if stranded > self._alarmed:
            log.error("job.stranded", jobs=stranded, stranded_bytes=total, seconds=self._timeout)
        self._alarmed = stranded
        return total
