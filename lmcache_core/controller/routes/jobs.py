"""``/v1/jobs``: what was asked of this controller, and what came of it."""

from __future__ import annotations

import itertools
from typing import Annotated

import msgspec
from litestar import Controller, get
from litestar.params import Parameter

from lmcache_core.controller.jobs import Job, JobState
from lmcache_core.controller.plane import ControlPlane
from lmcache_core.controller.problems import responses


class JobList(msgspec.Struct, frozen=True):
    """A page of jobs.

    Attributes:
        jobs: The latest first.
        next: What to give as ``after`` for the next page, or None.
    """

    jobs: list[Job]
    next: str | None


class JobRoutes(Controller):
    """Operations by their event id."""

    path = "/v1/jobs"
    tags = ("jobs",)

    @get("/", sync_to_thread=False, responses=responses(404))
    def list_jobs(
        self,
        *,
        plane: ControlPlane,
        operation: str | None = None,
        job_state: Annotated[JobState | None, Parameter(query="state")] = None,
        limit: Annotated[int, Parameter(query="limit", ge=1, le=1000)] = 100,
        after: str | None = None,
    ) -> JobList:
        """List jobs, the latest first, those that match."""
        found = (
            job
            for job in plane.jobs.latest(after)
            if operation in (None, job.operation) and job_state in (None, job.state)
        )
        page = list(itertools.islice(found, limit + 1))
        more = page[limit - 1].event_id if len(page) > limit else None
        return JobList(page[:limit], more)

    @get("/{event_id:str}", sync_to_thread=False, responses=responses(404))
    def get_job(self, plane: ControlPlane, event_id: str) -> Job:
        """Show a job."""
        return plane.jobs.get(event_id)
