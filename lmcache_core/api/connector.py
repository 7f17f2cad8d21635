"""The facade an engine connector drives, and the plans that cross it.

The connector's scheduling side makes one :class:`CacheFacade` through
``lmcache_core.engine.start``; its worker side only ever sees the plain plans
below, which name slots by offset, and copies pages.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import msgspec

from lmcache_core.api.pins import PinPromise
from lmcache_core.keys import Key, Scope

NULL_BLOCK = 0
"""In the block table of a windowed group, the id that stands for no block."""


class KVGroup(msgspec.Struct, frozen=True):
    """Layers that share one block table, as far as the cache needs to know them.

    Attributes:
        block_tokens: Tokens in one block.
        block_bytes: Bytes of one block over all its layers of all ranks.
        window: Tokens that a token attends to, itself among them; None where
            it attends to all before it. To compute the token after the first
            ``n``, a windowed group needs the blocks of tokens ``n - window +
            1`` to ``n``, and the engine has taken away those before.
        clears_tails: Whether who stores zeroes, in the last block of a tail,
            the bytes of tokens that are not valid. Only then may a tail
            leave host memory.
    """

    block_tokens: int
    block_bytes: int
    window: int | None = None
    clears_tails: bool = False


class SlotCopy(msgspec.Struct, frozen=True, array_like=True):
    """Pages to move between a slot and the page table of one KV group.

    A slot's payload holds the groups one after the other. A group's part holds
    ``slot_blocks`` blocks, rank by rank and layer by layer: page ``b`` of layer
    ``l`` of a rank lies at ``offset + slot_blocks * (bytes of a block in all
    layers before l, those of earlier ranks first) + b * page_bytes[l]``.
    Blocks that were not there when the chunk was stored take no room.

    Attributes:
        offset: Where the group's part starts in the pool's region, in bytes.
        slot_blocks: Blocks of the group that the slot holds.
        first_block: Index among them of the first block to move.
        block_ids: The engine's blocks, in order from ``first_block`` on.
        group: Number of the group.
        tail_tokens: In a store, tokens of the last of these blocks that are
            valid; 0 where all are.
    """

    offset: int
    slot_blocks: int
    first_block: int
    block_ids: tuple[int, ...]
    group: int = 0
    tail_tokens: int = 0


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


class ChunkChange(msgspec.Struct, frozen=True):
    """A chunk that can be found in a tier from now on, or no longer.

    Attributes:
        location: The tier's name.
        stored: True where it has come, False where it has gone.
        key: The chunk's key.
        parent: Key of the chunk before it; None for the first chunk of a
            request that had no adapter, salt, tag or picture, and where it is
            not known.
        token_bytes: Its token ids as little-endian uint32; empty where they
            are not known, as of what a store has kept from before, and of
            what has gone.
    """

    location: str
    stored: bool
    key: Key
    parent: Key | None = None
    token_bytes: bytes = b""


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

        A prefix ends only where every windowed group has all pages of its
        window. What it names is leased to the request until :meth:`plan_load`,
        another :meth:`match` or :meth:`finish`; cheap to call again.
        """

    @abstractmethod
    def plan_load(
        self, request_id: str, start: int, stop: int, tables: Sequence[Sequence[int]]
    ) -> CopyJob | None:
        """Plan to load tokens ``start`` to ``stop`` of the last match.

        Args:
            request_id: The request.
            start: First token to load; a multiple of every block size.
            stop: End of the tokens to load.
            tables: The request's block table from token 0 on, per group.

        Returns:
            The job, or None when the last match does not hold these tokens;
            for ``stop`` where it ended it always does.
        """

    @abstractmethod
    def plan_store(
        self, request_id: str, stop: int, tables: Sequence[Sequence[int]], *, final: bool
    ) -> CopyJob | None:
        """Plan to store what is computed up to token ``stop`` and not cached.

        Args:
            request_id: The request.
            stop: Tokens whose pages are computed when the job runs.
            tables: The request's block table from token 0 on, per group. In
                that of a windowed group :data:`NULL_BLOCK` is a hole.
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
    def pin(self, request_id: str, tokens: int, wish: object) -> PinPromise:
        """Pin the first tokens of a request, as it has asked itself.

        It is done behind, once the stores of these tokens are; the controller
        answers for what has become of it.

        Args:
            request_id: The request, which has not finished.
            tokens: Length of its prompt.
            wish: A :class:`~lmcache_core.api.pins.PinWish` as plain values.

        Raises:
            LMCacheError: The wish is wrong, or no pins are taken from
                requests here, or too many wait.
        """

    @abstractmethod
    def finish(self, request_id: str) -> None:
        """Forget a request and end its leases; jobs under way go on."""

    @abstractmethod
    def reset(self) -> None:
        """Raise the epoch: nothing older is read again, nothing is deleted."""

    @abstractmethod
    def follow_changes(self) -> None:
        """Keep changes for :meth:`take_changes` from now on."""

    @abstractmethod
    def take_changes(self) -> Sequence[ChunkChange]:
        """What has changed since the last call, in order.

        Only so much is kept; of more the oldest is lost, and a warning logged.
        """

    @abstractmethod
    def counters(self) -> Mapping[str, int]:
        """Running totals since the start, by name."""

    @abstractmethod
    def close(self) -> None:
        """Stop threads and connections within their deadlines; idempotent."""
