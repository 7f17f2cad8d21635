"""Operations under their event id, kept for a while after they end."""

from __future__ import annotations

import contextlib
import enum
import time
import uuid
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator

import msgspec

from lmcache_core.errors import UnknownNameError

MAX_JOBS = 8192
"""Jobs kept; of those that have ended the oldest make room."""


class JobState(enum.Enum):
    """How far a job is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Job(msgspec.Struct, kw_only=True):
    """One operation.

    Attributes:
        event_id: The operation's name and a uuid.
        operation: The name.
        state: How far it is.
        started_at: Unix time.
        ended_at: Unix time, or None.
        num_tokens: What it answered, or None.
        pin_id: The pin it made, or None.
        detail: Why it failed, or an empty string.
    """

    event_id: str
    operation: str
    state: JobState = JobState.RUNNING
    started_at: float
    ended_at: float | None = None
    num_tokens: int | None = None
    pin_id: str | None = None
    detail: str = ""


class Jobs:
    """Jobs by event id, bounded."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.seconds: defaultdict[tuple[str, str], float] = defaultdict(float)

    @contextlib.contextmanager
    def track(self, operation: str) -> Iterator[Job]:
        """Keep a job while a block runs; how the block ends is how the job ends."""
        event_id = f"{operation}_{uuid.uuid4()}"
        job = Job(event_id=event_id, operation=operation, started_at=time.time())
        began = time.monotonic()
        self._jobs[event_id] = job
        self._make_room()
        try:
            yield job
            job.state = JobState.DONE
        except BaseException as error:
            job.state = JobState.FAILED
            job.detail = str(error) or type(error).__name__
            raise
        finally:
            job.ended_at = time.time()
            outcome = operation, job.state.value
            self.outcomes[outcome] += 1
            self.seconds[outcome] += time.monotonic() - began

    def get(self, event_id: str) -> Job:
        """A job.

        Raises:
            UnknownNameError: It is not kept, or never was.
        """
        job = self._jobs.get(event_id)
        if job is None:
            kind = f"event (the last {MAX_JOBS} are kept)"
            raise UnknownNameError(kind, event_id, ())
        return job

    def _make_room(self) -> None:
        while len(self._jobs) > MAX_JOBS:
            oldest = next((i for i, job in self._jobs.items() if job.ended_at is not None), None)
            if oldest is None:
                return
            del self._jobs[oldest]
