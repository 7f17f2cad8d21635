"""A load of a hybrid model that has failed."""

from __future__ import annotations

from lmcache_core.errors import LMCacheError


class UnreadableError(LMCacheError):
    """Pages that vLLM counts on are not there, and it has no way to be told.

    A block id names no KV cache group, so where there are several vLLM takes
    no report of blocks that failed. All that is offered lies in host memory,
    leased and verified, so that only a defect or a broken device comes to
    this; the server stops rather than answer from whatever the blocks held.

    Args:
        what: What was to be loaded.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} cannot be loaded, and vLLM takes no report of blocks that failed for a "
            "model of several KV cache groups; the server stops here"
        )
