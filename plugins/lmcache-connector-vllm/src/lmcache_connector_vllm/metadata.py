"""What travels between the scheduler's side and the worker's, step by step."""

from __future__ import annotations

from dataclasses import dataclass

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorWorkerMetadata,
)

from lmcache_connector_vllm.place import Place
from lmcache_core.api import ExtentHandle
from lmcache_core.api.connector import CopyJob


@dataclass(frozen=True)
class StepPlan(KVConnectorMetadata):  # type: ignore[misc]
    """What a worker is to copy in one step.

    Attributes:
        loads: Slots to write to blocks before the forward pass.
        stores: Blocks to read into slots after it.
        unreadable: Blocks that were promised and cannot be loaded.
        drain: Whether the step computes nothing and stores are under way, so
            that the worker may wait for one instead of spinning.
    """

    loads: tuple[CopyJob, ...] = ()
    stores: tuple[CopyJob, ...] = ()
    unreadable: tuple[int, ...] = ()
    drain: bool = False


IDLE = StepPlan()
"""A step in which there is nothing to copy."""

DRAIN = StepPlan(drain=True)
"""A step that is only there to bring acknowledgements."""


@dataclass(frozen=True)
class StepReport(KVConnectorWorkerMetadata):  # type: ignore[misc]
    """Jobs that ranks have finished since their last report.

    Attributes:
        done: Jobs that moved all their pages, once for each rank that did.
        failed: Jobs that did not.
    """

    done: tuple[int, ...]
    failed: tuple[int, ...]

    def aggregate(self, other: StepReport) -> StepReport:
        """Join the report of another rank, or a later one, to this one."""
        return StepReport(self.done + other.done, self.failed + other.failed)


@dataclass(frozen=True)
class WorkerOffer(KVConnectorHandshakeMetadata):  # type: ignore[misc]
    """What a rank hands to the scheduler once, at the start.

    Attributes:
        place: Where the rank runs.
        extent: The shared region, the same on all ranks.
        page_bytes: Bytes of a page, per KV group and layer. The scheduler's
            own configuration is that of the first rank, and simplified.
        isa: What decides the order of bytes inside a page.
        stores: Whether the rank has a shard of its own in each slot; if not,
            its pages are those of a rank before it.
        clears_tails: Whether the rank zeroes what lies behind a tail's last
            token, per KV group.
    """

    place: Place
    extent: ExtentHandle
    page_bytes: tuple[tuple[int, ...], ...]
    isa: str
    stores: bool
    clears_tails: tuple[bool, ...]


@dataclass(frozen=True)
class WorkerRefusal(KVConnectorHandshakeMetadata):  # type: ignore[misc]
    """Says instead of an offer why the instance is served without a cache.

    Attributes:
        reason: One sentence, the same on all ranks.
    """

    reason: str
