"""The scheduler's side: drives the engine, request by request and step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmcache_connector_vllm.acknowledgements import Acknowledgements
from lmcache_connector_vllm.block_holds import BlockHolds
from lmcache_connector_vllm.metadata import DRAIN, IDLE, StepPlan, StepReport
from lmcache_connector_vllm.request_pin import pin_prompt, refused_pin
from lmcache_connector_vllm.scope import Scopes, skips_save
from lmcache_connector_vllm.stats import CacheStats, StatsReader
from lmcache_connector_vllm.tracked import NEVER, Tracked
from lmcache_connector_vllm.uncacheable import UncacheableError
from lmcache_connector_vllm.unreadable import UnreadableError
from lmcache_core.api.connector import CacheFacade, CopyJob
from lmcache_core.config import EngineConfig
from lmcache_core.keys import TokenRangeError
from lmcache_core.log import get_logger

if TYPE_CHECKING:
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.sched.output import KVConnectorBlockState
    from vllm.v1.request import Request

log = get_logger(__name__)

WHOLE_FINISHES = frozenset({"FINISHED_STOPPED", "FINISHED_LENGTH_CAPPED"})
"""Ends of a request after which what it generated is worth keeping."""

MAX_REASONS = 100
"""Reasons that are logged in the life of a server, once each."""


class SchedulerSide:
    """Turns vLLM's scheduling into look-ups, loads and stores.

    All calls come from vLLM's scheduling thread. What a call costs is a
    dictionary look-up and an integer comparison, but where a request arrives,
    fills a chunk, completes its prompt, or finishes.

    Args:
        facade: The engine; this side closes it.
        config: The instance's configuration.
        ranks: Number of workers that copy.
        block_tokens: Tokens after which the blocks of all groups end together.
        group_ids: Numbers of vLLM's KV cache groups that are cached.
        pool: vLLM's block pool.
        reads: Whether hits are offered.
        writes: Whether anything is stored.
    """

    def __init__(
        self,
        facade: CacheFacade,
        config: EngineConfig,
        *,
        ranks: int,
        block_tokens: int,
        group_ids: Sequence[int],
        pool: BlockPool,
        reads: bool,
        writes: bool,
    ) -> None:
        self._facade = facade
        self._block_tokens = block_tokens
        self._group_ids = tuple(group_ids)
        self._chunk_size = config.chunk_size
        self._saves_decode = config.save_decode_cache
        self._min_tokens = max(1, config.min_retrieve_tokens)
        self._reads = reads
        self._writes = writes
        self._holds = BlockHolds(pool)
        self._acknowledgements = Acknowledgements(ranks)
        self._scopes = Scopes()
        self._stats = StatsReader(facade)
        self._tracked: dict[str, Tracked] = {}
        self._loads: list[CopyJob] = []
        self._stores: list[CopyJob] = []
        self._unreadable: list[int] = []
        self._loading: dict[int, Tracked] = {}
        self._said: set[str] = set()

    # -- a request arrives, waits, is given blocks --------------------------

    def begin(self, request: Request) -> None:
        """Note a request and start fetching what it can use."""
        try:
            scope = self._scopes.of(request)
            self._facade.begin(request.request_id, request.all_token_ids[:], scope)
        except (UncacheableError, TokenRangeError) as error:
            self._say_once(str(error))
            return
        tracked = self._tracked[request.request_id] = Tracked(request)
        if not self._writes or skips_save(request):
            tracked.store_at = NEVER
        self._stats.changed = True

    def match(self, request: Request, local: int) -> int | None:
        """Tokens beyond ``local`` that can be loaded; None for "ask again".

        vLLM asks in every step for every request that waits; the engine
        answers a repeated question from memory. One token is left to compute:
        vLLM asserts that a scheduled request has something to do.
        """
        tracked = self._tracked.get(request.request_id)
        if (
            tracked is None
            or not self._reads
            or tracked.load_failed
            or request.skip_reading_prefix_cache
        ):
            return 0
        # A preempted request comes back with the tokens it has generated.
        # They are looked up like any others: what was stored of them, and no
        # more, can be claimed.
        self._learn_tokens(request)
        match = self._facade.match(request.request_id, request.num_tokens - 1)
        if not match.ready:
            return None
        tracked.local = local
        tracked.match = match
        tokens = match.tokens - local
        return tokens if tokens >= self._min_tokens else 0

    def allocated(self, request: Request, tables: Sequence[Sequence[int]], tokens: int) -> None:
        """Plan the load of the ``tokens`` that vLLM has taken up of an offer.

        Args:
            request: The request.
            tables: Its block table from token 0 on, per group of vLLM's.
            tokens: How many it loads; 0 where it needs none.

        Raises:
            UnreadableError: They cannot be loaded after all, and vLLM has no
                way to be told.
        """
        tracked = self._tracked.get(request.request_id)
        if tracked is None:
            return
        if tokens == 0:
            if tracked.match.tokens:
                # What was found is not wanted; looking for nothing ends the
                # leases, which would otherwise last as long as the request.
                tracked.match = self._facade.match(request.request_id, 0)
            return
        start, stop = tracked.local, tracked.local + tokens
        tables = self._cached(tables)
        job = self._facade.plan_load(request.request_id, start, stop, tables)
        self._stats.changed = True
        if job is None:
            # vLLM counts on these pages: say that they cannot be read rather
            # than let it attend to whatever the blocks held before.
            log.error("load.not_planned", request=request.request_id, start=start, stop=stop)
            tracked.load_failed = True
            if len(tables) > 1:
                raise UnreadableError(f"tokens {start} to {stop} of {request.request_id}")
            self._unreadable.extend(tables[0][start // self._block_tokens :])
            return
        self._loads.append(job)
        self._loading[job.job_id] = tracked

    def hit_locations(self, request: Request, tokens: int) -> dict[str, int]:
        """The ``tokens`` a request loads, by the tier that held them.

        vLLM's own prefix covers the first of them.
        """
        tracked = self._tracked.get(request.request_id)
        if tracked is None:
            return {}
        skip = tracked.local
        parts: dict[str, int] = {}
        for location, held in tracked.match.by_location.items():
            part = min(max(0, held - skip), tokens)
            skip = max(0, skip - held)
            tokens -= part
            if part:
                parts[location] = part
        return parts

    # -- a step -------------------------------------------------------------

    def plan_step(self, scheduled: dict[str, int], block_state: KVConnectorBlockState) -> StepPlan:
        """What the worker is to copy in this step.

        Args:
            scheduled: Tokens that the step computes, by request.
            block_state: Resolves a request's block table.
        """
        for request_id, tokens in scheduled.items():
            tracked = self._tracked.get(request_id)
            if tracked is None:
                continue
            # vLLM advances its own count after this call.
            computed = tracked.request.num_computed_tokens + tokens
            if computed >= tracked.store_at:
                self._plan_store(tracked, computed, block_state.get_block_ids(request_id))
        if self._loads or self._stores or self._unreadable:
            plan = StepPlan(tuple(self._loads), tuple(self._stores), tuple(self._unreadable))
            self._loads.clear()
            self._stores.clear()
            self._unreadable.clear()
            return plan
        return DRAIN if not scheduled and self._facade.open_jobs else IDLE

    def acknowledge(self, report: StepReport) -> None:
        """Take in what ranks have finished; a job is, when all of them have."""
        report = self._acknowledgements.add(report)
        self._facade.acknowledge(report.done, failed=report.failed)
        for job_id in (*report.done, *report.failed):
            self._holds.release(job_id)
        for job_id in report.failed:
            if job_id in self._loading:
                self._loading[job_id].load_failed = True
        for job_id in (*report.done, *report.failed):
            self._loading.pop(job_id, None)
        self._stats.changed = True

    @property
    def open_jobs(self) -> int:
        """Number of jobs that not all ranks have acknowledged.

        Acknowledgements travel only in steps, so vLLM has to go on stepping.
        """
        return self._facade.open_jobs

    @property
    def holds_blocks(self) -> bool:
        """Whether waiting gives blocks back without a preemption."""
        return len(self._holds) > 0

    # -- a request ends -----------------------------------------------------

    def finish(self, request: Request, tables: Sequence[Sequence[int]]) -> dict[str, object] | None:
        """Forget a request; where generated tokens are kept, store the last ones.

        Args:
            request: The request.
            tables: Its block table, still its own, per group of vLLM's.

        Returns:
            What its response is to carry, or None.
        """
        tracked = self._tracked.pop(request.request_id, None)
        whole = request.status.name in WHOLE_FINISHES
        if tracked is None:
            return refused_pin(request, "the request cannot be cached") if whole else None
        if self._saves_decode and tracked.store_at != NEVER and whole:
            # Steps in flight may be writing beyond; what they compute is not
            # part of the answer.
            computed = request.num_computed_tokens - request.num_in_flight_tokens
            self._plan_store(tracked, computed, tables, finished=True)
        answer = pin_prompt(self._facade, request) if whole else None
        self._facade.finish(request.request_id)
        self._stats.changed = True
        return answer

    def reset(self) -> None:
        """Let nothing that is stored be read again."""
        self._facade.reset()

    def take_stats(self) -> CacheStats | None:
        """What has been counted since the last call, or None."""
        return self._stats.take()

    def close(self) -> None:
        """Close the engine; idempotent."""
        self._facade.close()

    def _cached(self, tables: Sequence[Sequence[int]]) -> list[Sequence[int]]:
        """The block tables of the groups that are cached."""
        return [tables[number] for number in self._group_ids]

    def _plan_store(
        self,
        tracked: Tracked,
        computed: int,
        tables: Sequence[Sequence[int]],
        *,
        finished: bool = False,
    ) -> None:
        """Store what is complete once ``computed`` tokens are; say when to come again."""
        request = tracked.request
        prompt = request.num_prompt_tokens
        # Tokens beyond num_tokens are drafts or not sampled yet.
        stop = min(computed, request.num_tokens)
        if not self._saves_decode:
            stop = min(stop, prompt)
        self._learn_tokens(request)
        final = finished or stop == prompt
        job = self._facade.plan_store(request.request_id, stop, self._cached(tables), final=final)
        if job is not None:
            self._holds.hold(job)
            self._stores.append(job)
        if stop < prompt:
            tracked.store_at = min(prompt, self._next_chunk(stop))
        else:
            tracked.store_at = self._next_chunk(stop) if self._saves_decode else NEVER

    def _say_once(self, reason: str) -> None:
        """Log why requests are not cached, but not for each of them."""
        if reason not in self._said and len(self._said) < MAX_REASONS:
            self._said.add(reason)
            log.warning("request.not_cached", reason=reason)

    def _next_chunk(self, stop: int) -> int:
        return (stop // self._chunk_size + 1) * self._chunk_size

    def _learn_tokens(self, request: Request) -> None:
        known = self._facade.length(request.request_id)
        if known < request.num_tokens:
            self._facade.extend(request.request_id, request.all_token_ids[known:])
