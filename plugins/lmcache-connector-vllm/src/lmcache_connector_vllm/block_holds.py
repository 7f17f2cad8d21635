"""Blocks of vLLM's pool that are kept until their pages are copied."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmcache_core.api.connector import CopyJob

if TYPE_CHECKING:
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_utils import KVCacheBlock


class BlockHolds:
    """A reference on each source block of each store that is under way.

    A request may finish, be preempted or be aborted right after its store was
    planned; its blocks would be given to another request and overwritten.

    Args:
        pool: vLLM's block pool.
    """

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._held: dict[int, list[KVCacheBlock]] = {}

    def __len__(self) -> int:
        """Number of jobs that hold blocks."""
        return len(self._held)

    def hold(self, job: CopyJob) -> None:
        """Keep a store's source blocks from being given away."""
        blocks = self._pool.blocks
        held = [blocks[block_id] for copy in job.copies for block_id in copy.block_ids]
        self._pool.touch(held)
        self._held[job.job_id] = held

    def release(self, job_id: int) -> None:
        """Let a job's blocks go; a job that holds none is passed over."""
        held = self._held.pop(job_id, None)
        if held is not None:
            # vLLM's order: of a prompt, the last block is to be reused first.
            self._pool.free_blocks(reversed(held))
