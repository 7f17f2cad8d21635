"""Planning stores, and taking them in when they are done."""

from __future__ import annotations

from collections.abc import Sequence

from lmcache_core.api.connector import CopyJob
from lmcache_core.engine.cache.jobs import Job, JobBook
from lmcache_core.engine.cache.request import Request
from lmcache_core.engine.cache.slot_copies import store_copies
from lmcache_core.engine.chunks.entry import Entry
from lmcache_core.engine.chunks.pages import Pages, fuller
from lmcache_core.engine.chunks.piece import piece_at
from lmcache_core.engine.tiers.stack import TierStack


class Storer:
    """Brings computed pages into host memory.

    Not thread-safe: the engine's lock is held around every call.

    Args:
        tiers: The instance's tiers.
        jobs: Copies under way.
        counters: Running totals to add to.
        stranded_limit_bytes: Bytes of overdue jobs above which none is planned.
    """

    def __init__(
        self,
        tiers: TierStack,
        jobs: JobBook,
        counters: dict[str, int],
        *,
        stranded_limit_bytes: int,
    ) -> None:
        self._tiers = tiers
        self._jobs = jobs
        self._counters = counters
        self._stranded_limit_bytes = stranded_limit_bytes

    def plan(
        self, request: Request, stop: int, tables: Sequence[Sequence[int]], *, final: bool
    ) -> CopyJob | None:
        """Plan to store what is computed up to token ``stop`` and not cached."""
        if not request.storable or self._jobs.stranded_bytes() > self._stranded_limit_bytes:
            return None
        size = request.chain.chunk_size
        stop = min(stop, len(request.chain))
        last = stop // size
        planned: list[tuple[int, Entry]] = []
        geometry = self._tiers.geometry
        pages: Pages = None
        while request.stored_chunks < last:
            index = request.stored_chunks
            if geometry.windowed:
                pages = geometry.pages(index * size, size, tables)
            if not self._plan_chunk(request, index, size, pages, planned):
                break
            request.stored_chunks += 1
        if final and stop % size and request.stored_chunks == last:
            if geometry.windowed:
                pages = geometry.pages(last * size, stop % size, tables)
            self._plan_chunk(request, last, stop % size, pages, planned)
        if not planned:
            return None
        job = self._jobs.open([entry for _, entry in planned], store=True)
        return CopyJob(job.job_id, tuple(store_copies(geometry, planned, tables, size)))

    def done(self, job: Job, *, ok: bool) -> None:
        """Take in the chunks of a store that every worker has finished."""
        # The last chunk first, so that the first is the most recently used
        # and a chain is evicted from its end.
        settle = self._tiers.admit if ok else self._tiers.memory.abandon
        for entry in reversed(job.entries):
            settle(entry)
        if not ok:
            return
        stored = [entry for entry in job.entries if not entry.dropped]
        self._counters["stored_chunks"] += len(stored)
        self._counters["stored_tokens"] += sum([entry.tokens for entry in stored])
        # The first chunk first: where a slow store takes no more, what it has
        # must be a prefix, or nobody ever finds it.
        for entry in stored if self._tiers.storage else ():
            self._tiers.lowering.stored(entry)

    def _plan_chunk(
        self,
        request: Request,
        index: int,
        tokens: int,
        pages: Pages,
        planned: list[tuple[int, Entry]],
    ) -> bool:
        """Plan one chunk; False where there is no room for it."""
        memory = self._tiers.memory
        piece = piece_at(request.chain, index, tokens)
        if self._jobs.writing(piece.key):
            return True
        child, agreed = memory.index.best_child(piece.parent, piece.token_bytes)
        if (
            child is not None
            and agreed == tokens
            and not child.staged
            and not (child.key == piece.key and fuller(pages, child.pages))
        ):
            memory.residents.touch(child.key)
            return True
        slot = memory.allocate(self._tiers.geometry.slot_bytes(tokens, pages))
        if slot is None:
            self._counters["no_room"] += 1
            return False
        planned.append((index, Entry(piece, slot, memory.name, pages)))
        return True
