"""The cache of one serving instance, as its connector drives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lmcache_core.api.connector import CacheFacade, ChunkChange, CopyJob, Match
from lmcache_core.api.pins import PinPromise
from lmcache_core.engine.cache.jobs import JobBook
from lmcache_core.engine.cache.promotion import Promoter
from lmcache_core.engine.cache.request import Request
from lmcache_core.engine.cache.slot_copies import load_copies
from lmcache_core.engine.cache.storing import Storer
from lmcache_core.engine.chunks.entry import Entry
from lmcache_core.engine.tiers.stack import TierStack
from lmcache_core.errors import LMCacheError
from lmcache_core.keys import TOKEN_BYTES, Scope, tokens_to_bytes
from lmcache_core.log import get_logger

log = get_logger(__name__)


class CacheEngine(CacheFacade):
    """Requests, look-ups, loads and stores over one stack of tiers.

    One lock, held for microseconds, orders the connector's calls with those
    of the control agent and of the storage tiers' threads. Made by
    :func:`lmcache_core.engine.start`.

    Args:
        tiers: The instance's tiers, opened.
        job_timeout_seconds: When a copy counts as stranded.
        promotion_timeout_seconds: How long a request waits for a store.
        stranded_limit_bytes: Bytes of overdue copies above which nothing is
            stored.

    Attributes:
        tiers: See above.
        jobs: Copies under way.
        settled: Called after jobs have closed, so that who waits for one
            looks again; None for nobody.
        ask_pin: Takes packed tokens, their scope and the wish of the request
            that has them to be pinned; None where no such pins are taken.
        on_close: Closed with the engine, in order, before the tiers.
    """

    def __init__(
        self,
        tiers: TierStack,
        *,
        job_timeout_seconds: float,
        promotion_timeout_seconds: float,
        stranded_limit_bytes: int,
    ) -> None:
        self.tiers = tiers
        self.jobs = JobBook(job_timeout_seconds)
        self.settled: Callable[[], None] | None = None
        self.ask_pin: Callable[[bytes, Scope, object], PinPromise] | None = None
        self.on_close: list[Callable[[], None]] = []
        self._lock = tiers.lock
        self._requests: dict[str, Request] = {}
        self._counters = dict.fromkeys(
            (
                "requests",
                "lookup_tokens",
                "hit_tokens",
                "loaded_tokens",
                "stored_tokens",
                "stored_chunks",
                "failed_jobs",
                "no_room",
                "promoted_chunks",
                "promotion_timeouts",
            ),
            0,
        )
        self._storer = Storer(
            tiers, self.jobs, self._counters, stranded_limit_bytes=stranded_limit_bytes
        )
        self._promoter = Promoter(tiers, self._counters, timeout_seconds=promotion_timeout_seconds)
        self._closed = False

    def begin(self, request_id: str, tokens: Sequence[int], scope: Scope) -> None:
        """Note a new request and start fetching what lies below host memory."""
        packed = tokens_to_bytes(tokens)
        with self._lock:
            self._forget(request_id)
            request = Request(request_id, self.tiers.chain_of(packed, scope), scope)
            self._requests[request_id] = request
            self._counters["requests"] += 1
            self._promoter.start(request)

    def extend(self, request_id: str, tokens: Sequence[int]) -> None:
        """Append tokens that a request has grown by."""
        with self._lock:
            request = self._requests.get(request_id)
            if request is not None:
                request.chain.extend(tokens)

    def length(self, request_id: str) -> int:
        """Number of tokens known of a request; 0 for an unknown one."""
        request = self._requests.get(request_id)
        return 0 if request is None else len(request.chain)

    def match(self, request_id: str, limit: int) -> Match:
        """Find the longest cached prefix of at most ``limit`` tokens."""
        with self._lock:
            request = self._requests.get(request_id)
            if request is None:
                return Match(0, {})
            if request.match is not None and request.match[0] == limit:
                return request.match[1]
            if self._promoter.waits(request):
                return Match(0, {}, ready=False)
            memory = self.tiers.memory
            found, tokens = memory.find(request.chain, limit)
            memory.lease(found, request_id)
            if request.matched:
                kept = {id(entry) for entry in found}
                memory.release(
                    [entry for entry in reversed(request.matched) if id(entry) not in kept],
                    request_id,
                )
            self._promoter.release(request)
            request.matched = found
            match = Match(tokens, _by_location(found, tokens, request.chain.chunk_size))
            request.match = (limit, match)
            self._counters["lookup_tokens"] += limit
            self._counters["hit_tokens"] += tokens
            touch, name = memory.residents.touch, memory.name
            for entry in reversed(found):
                touch(entry.key)
                entry.origin = name
            self.tiers.lowering.used(found)
            if found:
                self.tiers.pins.note_hit(found[0].key)
            return match

    def plan_load(
        self, request_id: str, start: int, stop: int, tables: Sequence[Sequence[int]]
    ) -> CopyJob | None:
        """Plan to load tokens ``start`` to ``stop`` of the last match."""
        with self._lock:
            request = self._requests.get(request_id)
            if request is None or request.match is None or stop > request.match[1].tokens:
                return None
            copies = load_copies(self.tiers.geometry, request.matched, start, stop, tables)
            if not copies:
                return None
            size = request.chain.chunk_size
            entries = request.matched[start // size : -(-stop // size)]
            job = self.jobs.open(entries, store=False)
            self.tiers.memory.lease(entries, job.owner)
            self._end_match(request)
            self._counters["loaded_tokens"] += stop - start
            return CopyJob(job.job_id, tuple(copies))

    def plan_store(
        self, request_id: str, stop: int, tables: Sequence[Sequence[int]], *, final: bool
    ) -> CopyJob | None:
        """Plan to store what is computed up to token ``stop`` and not cached."""
        with self._lock:
            request = self._requests.get(request_id)
            if request is None:
                return None
            return self._storer.plan(request, stop, tables, final=final)

    def acknowledge(self, job_ids: Sequence[int], *, failed: Sequence[int] = ()) -> None:
        """Note jobs that every worker has finished."""
        with self._lock:
            for job_id in job_ids:
                self._close_job(job_id, ok=True)
            for job_id in failed:
                self._close_job(job_id, ok=False)
        self.note_progress()

    def note_progress(self) -> None:
        """Let whoever waits for copies look again."""
        settled = self.settled  # Another thread takes it away when the engine closes.
        if settled is not None:
            settled()

    @property
    def open_jobs(self) -> int:
        """Number of jobs that are not acknowledged."""
        return len(self.jobs)

    def pin(self, request_id: str, tokens: int, wish: object) -> PinPromise:
        """Pin the first tokens of a request, as it has asked itself."""
        if self.ask_pin is None:
            message = (
                "no pins are taken from requests here; set request_pin_owner, request_pin_quota, "
                "request_pin_max_ttl_seconds and a controller to allow them"
            )
            raise LMCacheError(message)
        request = self._requests.get(request_id)
        if request is None:
            message = f"request {request_id!r} is not known and cannot be pinned"
            raise LMCacheError(message)
        return self.ask_pin(request.chain.all_bytes()[: tokens * TOKEN_BYTES], request.scope, wish)

    def finish(self, request_id: str) -> None:
        """Forget a request and end its leases; jobs under way go on."""
        with self._lock:
            self._forget(request_id)

    def reset(self) -> None:
        """Raise the epoch: nothing older is read again, nothing is deleted."""
        with self._lock:
            epoch = self.tiers.raise_epoch()
            for request in self._requests.values():
                # What it has matched and not loaded is of the old epoch, and
                # what it computes from here on attends to what it computed
                # before: it goes on, and nothing of it is stored.
                self._end_match(request)
                request.storable = False
                request.chain = self.tiers.chain_of(request.chain.all_bytes(), request.scope)
        log.info("engine.epoch_raised", epoch=epoch)

    def follow_changes(self) -> None:
        """Keep changes for :meth:`take_changes` from now on."""
        with self._lock:
            self.tiers.changes.followed = True

    def take_changes(self) -> Sequence[ChunkChange]:
        """What has changed since the last call, in order."""
        with self._lock:
            return self.tiers.changes.take()

    def counters(self) -> Mapping[str, int]:
        """Running totals since the start, by name."""
        with self._lock:
            totals = dict(self._counters)
            totals["stranded_bytes"] = self.jobs.stranded_bytes()
            totals.update(self.tiers.counters())
            return totals

    def close(self) -> None:
        """Stop threads and connections within their deadlines; idempotent."""
        if self._closed:
            return
        self._closed = True
        for close in self.on_close:
            try:
                close()
            except Exception:
                # What comes after it has to be closed all the same.
                log.exception("engine.close_failed")
        self.tiers.close()

    def stores_open_for(self, token_bytes: bytes, scope: Scope) -> bool:
        """Whether a chunk of these tokens is being written just now."""
        if not len(self.jobs):
            return False
        chain = self.tiers.chain_of(token_bytes, scope)
        parents = {chain.root, *chain.keys}
        with self._lock:
            return self.jobs.stores_under(parents)

    def _close_job(self, job_id: int, *, ok: bool) -> None:
        job = self.jobs.close(job_id)
        if job is None:
            return
        if not ok:
            self._counters["failed_jobs"] += 1
        if job.store:
            self._storer.done(job, ok=ok)
        else:
            self.tiers.memory.release(reversed(job.entries), job.owner)

    def _forget(self, request_id: str) -> None:
        request = self._requests.pop(request_id, None)
        if request is not None:
            request.closed = True
            self._end_match(request)
            self._promoter.release(request)

    def _end_match(self, request: Request) -> None:
        matched, request.matched = request.matched, []
        request.match = None
        self.tiers.memory.release(reversed(matched), request.request_id)


def _by_location(found: Sequence[Entry], tokens: int, chunk_tokens: int) -> dict[str, int]:
    """Tokens of a hit by where they came from; only the last chunk may not be hit whole."""
    by_location: dict[str, int] = {}
    for entry in found:
        by_location[entry.origin] = by_location.get(entry.origin, 0) + chunk_tokens
    if found:
        by_location[found[-1].origin] += tokens - len(found) * chunk_tokens
    return by_location
