"""The facade an engine connector drives, and the plans that cross it.

The connector's scheduling side makes one :class:`CacheFacade` through
``lmcache_core.engine.start``; its worker side only ever sees the plain plans
below, which name slots by offset, and copies pages.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import msgspec

from lmcache_core.keys import Scope


class SlotCopy(msgspec.Struct, frozen=True, array_like=True):
    """Pages to move between a slot and the engine's page table.

    The payload holds ``slot_blocks`` blocks layer by layer: page ``b`` of layer
    ``l`` lies at ``offset + slot_blocks * (bytes of layers before l) + b *
    page_bytes[l]``.

    Attributes:
        offset: Where the payload starts in the pool's region, in bytes.
        slot_blocks: Blocks the slot holds.
        first_block: Index in the slot of the first block to move.
        block_ids: The engine's blocks, in order from ``first_block`` on.
    """

    offset: int
    slot_blocks: int
    first_block: int
    block_ids: tuple[int, ...]


class CopyJob(msgspec.Struct, frozen=True, array_like=True):
    """Copies that are done and acknowledged together.

    Attributes:
        job_id: Names the job; the worker acknowledges it.
        copies: What to move.
    """

    job_id: int
    copies: tuple[SlotCopy, ...]


class Match(msgspec.Struct, frozen=True):
    """The answer to a look-up.

    Attributes:
        tokens: Length of the prefix that can be read, in tokens.
        by_location: The same tokens by the tier that held them.
        ready: False while a promotion from below host memory is under way;
            ask again.
    """

    tokens: int
    by_location: dict[str, int]
    ready: bool = True


class CacheFacade(ABC):
    """What a connector does with the cache, request by request.

    *Guaranteed*: no method blocks on a tier, a worker or the network; each
    costs microseconds per chunk. All but ``close`` are called from one thread.
    """

    @abstractmethod
    def begin(self, request_id: str, tokens: Sequence[int], scope: Scope) -> None:
        """Note a new request and start fetching what lies below host memory."""

    @abstractmethod
    def extend(self, request_id: str, tokens: Sequence[int]) -> None:
        """Append tokens that a request has grown by."""

    @abstractmethod
    def length(self, request_id: str) -> int:
        """Number of tokens known of a request; 0 for an unknown one."""

    @abstractmethod
    def match(self, request_id: str, limit: int) -> Match:
        """Find the longest cached prefix of at most ``limit`` tokens.

        What it names is leased to the request until :meth:`plan_load`,
        another :meth:`match` or :meth:`finish`; cheap to call again.
        """

    @abstractmethod
    def plan_load(
        self, request_id: str, start: int, stop: int, block_ids: Sequence[int]
    ) -> CopyJob | None:
        """Plan to load tokens ``start`` to ``stop`` of the last match.

        Args:
            request_id: The request.
            start: First token to load; a multiple of the block size.
            stop: End of the tokens to load.
            block_ids: The request's block table from token 0 on.

        Returns:
            The job, or None when there is nothing to load.
        """

    @abstractmethod
    def plan_store(
        self, request_id: str, stop: int, block_ids: Sequence[int], *, final: bool
    ) -> CopyJob | None:
        """Plan to store what is computed up to token ``stop`` and not cached.

        Args:
            request_id: The request.
            stop: Tokens whose pages are computed when the job runs.
            block_ids: The request's block table from token 0 on.
            final: Whether to store a tail; otherwise only whole chunks.

        Returns:
            The job, or None when there is nothing to store or no room.
        """

    @abstractmethod
    def acknowledge(self, job_ids: Sequence[int], *, failed: Sequence[int] = ()) -> None:
        """Note jobs that every worker has finished.

        Stored chunks can be found from now on; leases of loads end. Unknown
        ids are ignored.

        Args:
            job_ids: Jobs that moved all their pages.
            failed: Jobs that did not; what they were to store is dropped.
        """

    @property
    @abstractmethod
    def open_jobs(self) -> int:
        """Number of jobs that are not acknowledged."""

    @abstractmethod
    def finish(self, request_id: str) -> None:
        """Forget a request and end its leases; jobs under way go on."""

    @abstractmethod
    def reset(self) -> None:
        """Raise the epoch: nothing older is read again, nothing is deleted."""

    @abstractmethod
    def counters(self) -> Mapping[str, int]:
        """Running totals since the start, by name."""

    @abstractmethod
    def close(self) -> None:
        """Stop threads and connections within their deadlines; idempotent."""
