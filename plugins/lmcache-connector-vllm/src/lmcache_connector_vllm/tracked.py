"""What the scheduler's side remembers of a request while it lives."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from lmcache_core.api.connector import Match

if TYPE_CHECKING:
    from vllm.v1.request import Request

NEVER = sys.maxsize
"""A token count that no request reaches."""


class Tracked:
    """One request that may use the cache.

    Attributes:
        request: vLLM's request; its counts are read where they are needed.
        local: Tokens vLLM had itself when it last asked.
        match: The answer it was given then.
        store_at: Number of computed tokens at which there is something to
            store again.
        load_failed: Whether a load of its failed; it is offered none again,
            because vLLM would ask for the same one for ever.
    """

    __slots__ = ("load_failed", "local", "match", "request", "store_at")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.local = 0
        self.match = Match(0, {})
        self.store_at = 0
        self.load_failed = False
