"""Operations under their event id, kept for a while after they end.

Those that change something are kept in the ledger's file, too. One that was
under way when the controller ended is ``unknown`` from then on: nobody can say
how it went, and never that it went well.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
import time
import uuid
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator, Sequence

import msgspec

from lmcache_core.controller.journal import Journal
from lmcache_core.controller.warmed import Warmed
from lmcache_core.errors import UnknownNameError

MAX_JOBS = 8192
"""Jobs kept; of those that have ended the oldest make room. A placement that is
warmed counts as one more."""


class JobState(enum.Enum):
    """How far a job is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """The controller ended while it was under way."""


TABLE = "jobs"

DURABLE = frozenset(
    {
        *("Pin", "Unpin", "PutPin", "PostPin", "PatchPin", "DeletePin"),
        *("Clear", "Move", "Compress", "Decompress", "WarmPins"),
    }
)
"""Operations that change something."""

INTERRUPTED = "the controller ended while this was under way; ask for what it was to do"


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
        asked: Engines that were asked, or placements that are warmed.
        answered: Those of them that have answered, or are done.
        chunks: Chunks that those have found to be meant which are asked for
            what takes its time.
        chunks_done: Those of them that they are done with.
        detail: Why it failed or is not known, or an empty string.
        placements: What has become of each placement that is warmed.
    """

    event_id: str
    operation: str
    state: JobState = JobState.RUNNING
    started_at: float
    ended_at: float | None = None
    num_tokens: int | None = None
    pin_id: str | None = None
    asked: int = 0
    answered: int = 0
    chunks: int = 0
    chunks_done: int = 0
    detail: str = ""
    placements: list[Warmed] = []


class Jobs:
    """Jobs by event id, bounded.

    Args:
        journal: Where those that change something are kept; what it kept is
            taken up.
    """

    def __init__(self, journal: Journal | None = None) -> None:
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._journal = journal or Journal()
        self._journal.source(TABLE, self._record)
        self._weight = 0
        for event_id, job in self._journal.read(TABLE, Job):
            if job.state is JobState.RUNNING:
                job.state, job.detail = JobState.UNKNOWN, INTERRUPTED
                self._journal.note(TABLE, event_id, lazily=True)
            self._jobs[event_id] = job
            self._weight += _weight(job)
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.seconds: defaultdict[tuple[str, str], float] = defaultdict(float)

    @contextlib.contextmanager
    def track(self, operation: str, placements: Sequence[Warmed] = ()) -> Iterator[Job]:
        """Keep a job while a block runs; how the block ends is how the job ends."""
        event_id = f"{operation}_{uuid.uuid4()}"
        job = Job(
            event_id=event_id,
            operation=operation,
            started_at=time.time(),
            asked=len(placements),
            placements=list(placements),
        )
        began = time.monotonic()
        self._jobs[event_id] = job
        self._weight += _weight(job)
        self._make_room()
        self._note(job)
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
            self._note(job)

    def get(self, event_id: str) -> Job:
        """A job.

        Raises:
            UnknownNameError: It is not kept, or never was.
        """
        job = self._jobs.get(event_id)
        if job is None:
            kind = "event"
            hint = f"The last {MAX_JOBS} are kept; GET /v1/jobs lists them."
            raise UnknownNameError(kind, event_id, None, hint=hint)
        return job

    def latest(self, after: str | None = None) -> Iterator[Job]:
        """Jobs, the latest first, from the one before ``after`` on.

        Raises:
            UnknownNameError: ``after`` is not kept any more.
        """
        jobs = reversed(self._jobs.values())
        if after is None:
            return jobs
        self.get(after)
        found = itertools.dropwhile(lambda job: job.event_id != after, jobs)
        return itertools.islice(found, 1, None)

    def _make_room(self) -> None:
        while self._weight > MAX_JOBS:
            oldest = next(
                (i for i, job in self._jobs.items() if job.state is not JobState.RUNNING), None
            )
            if oldest is None:
                return
            job = self._jobs.pop(oldest)
            self._weight -= _weight(job)
            self._note(job)

    def _note(self, job: Job) -> None:
        if job.operation in DURABLE:
            # It goes with the commit that the operation makes for itself.
            self._journal.note(TABLE, job.event_id, lazily=True)

    def _record(self, event_id: str) -> Job | None:
        return self._jobs.get(event_id)


def _weight(job: Job) -> int:
    return 1 + len(job.placements)
