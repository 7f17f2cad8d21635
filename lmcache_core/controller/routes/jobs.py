"""``/v1/jobs``: what was asked of this controller, and what came of it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Controller, get
from litestar.params import Parameter

from lmcache_core.controller.jobs import Job, JobState
from lmcache_core.controller.plane import ControlPlane
from lmcache_core.controller.problems import responses
from lmcache_core.controller.routes.paging import Limit, page_of


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
        limit: Limit = 100,
        after: str | None = None,
    ) -> JobList:
        """List jobs, the latest first, those that match."""
        found = (
            job
            for job in plane.jobs.latest(after)
            if operation in (None, job.operation) and job_state in (None, job.state)
        )
        page, last = page_of(found, limit)
        return JobList(page, None if last is None else last.event_id)

    @get("/{event_id:str}", sync_to_thread=False, responses=responses(404))
    def get_job(self, plane: ControlPlane, event_id: str) -> Job:
        """Show a job."""
        return plane.jobs.get(event_id)
