"""Jobs that some ranks have finished and others have not."""

from __future__ import annotations

from lmcache_connector_vllm.metadata import StepReport


class Acknowledgements:
    """Closes a job when every rank has reported it, and fails it where one has failed.

    What is kept are jobs that the engine has open, so there is a bound.

    Args:
        ranks: How many report each job.
    """

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks
        self._missing: dict[int, int] = {}
        self._failed: set[int] = set()

    def add(self, report: StepReport) -> StepReport:
        """Take in what ranks report; what they have all reported comes back, each job once."""
        self._failed.update(report.failed)
        closed = []
        for job_id in (*report.done, *report.failed):
            missing = self._missing.pop(job_id, self._ranks) - 1
            if missing:
                self._missing[job_id] = missing
            else:
                closed.append(job_id)
        failed = tuple(job_id for job_id in closed if job_id in self._failed)
        self._failed.difference_update(failed)
        return StepReport(tuple(job_id for job_id in closed if job_id not in failed), failed)
