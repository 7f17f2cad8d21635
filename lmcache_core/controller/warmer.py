"""Making pins active whose content is missing, by having their prompts computed."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from lmcache_core.api.deadline import Deadline
from lmcache_core.api.pins import PinState
from lmcache_core.controller.completion import PATH, RANK_HEADER, Secrets, completion
from lmcache_core.controller.directory import Directory
from lmcache_core.controller.engine_record import EngineRecord
from lmcache_core.controller.failures import (
    EngineRefusedError,
    FieldError,
    NotWarmedError,
    TooManyError,
)
from lmcache_core.controller.jobs import Job, Jobs
from lmcache_core.controller.keeper import PinKeeper
from lmcache_core.controller.ledger import Ledger
from lmcache_core.controller.patience import Patience
from lmcache_core.controller.pin_row import NOBODY_SERVES, PinRow
from lmcache_core.controller.ranks import rank_of
from lmcache_core.controller.selection import Selection
from lmcache_core.controller.serving_client import ServingClient
from lmcache_core.controller.warmed import Warmed
from lmcache_core.errors import LMCacheError
from lmcache_core.log import get_logger

log = get_logger(__name__)

AT_ONCE = 8
"""Prompts that are computed at once, one at most for each engine and job: its server has
users of its own."""

MAX_PLACEMENTS = 512
"""Placements that one job warms."""

MAX_JOBS = 16
"""Jobs under way."""

ASK_SECONDS = 10.0
"""How long an engine may take to say what it holds; it waits meanwhile for stores."""

ENDED = "the controller ended while this was under way"


class Order(NamedTuple):
    """How pins are to be warmed.

    Attributes:
        prompt_seconds: How long a server may take to compute one prompt.
        secrets: What the ledger does not keep of their scopes.
    """

    prompt_seconds: float
    secrets: Secrets


class Warmer:
    """Has prompts computed by the servers of engines; their stores mark what is reserved.

    Args:
        directory: The engines.
        ledger: The pins.
        keeper: Asks engines for pins.
        jobs: Where a warming is kept.
    """

    def __init__(self, directory: Directory, ledger: Ledger, keeper: PinKeeper, jobs: Jobs) -> None:
        self._directory = directory
        self._ledger = ledger
        self._keeper = keeper
        self._jobs = jobs
        self._servers = ServingClient(AT_ONCE, "lmcache-warm")
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, rows: Iterable[PinRow], selection: Selection, order: Order) -> Job:
        """Begin to make pins active, and return the job, which ends by itself.

        Args:
            rows: The pins.
            selection: Which of their placements are meant.
            order: How.

        Raises:
            FieldError: They have more placements that are not active than one job warms.
            TooManyError: As many jobs are under way as may be.
        """
        placements = [warmed for row in rows for warmed in _cold(row, selection)]
        if len(placements) > MAX_PLACEMENTS:
            message = (
                f"{len(placements)} placements are not active, and one job warms {MAX_PLACEMENTS} "
                "of them; say less with pin_ids, owner, instance_id, location, namespace or labels"
            )
            raise FieldError(message)
        if len(self._tasks) >= MAX_JOBS:
            message = f"{MAX_JOBS} jobs that warm pins are under way"
            raise TooManyError(message)
        tracked = contextlib.ExitStack()
        job = tracked.enter_context(self._jobs.track("WarmPins", placements))
        job.num_tokens = 0
        if not placements:
            tracked.close()
            return job
        task = asyncio.create_task(self._run(tracked, job, order), name=job.event_id)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    async def close(self) -> None:
        """Stop; what is under way is cut off."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel(ENDED)
        await asyncio.gather(*tasks, return_exceptions=True)
        self._servers.close()

    async def _run(self, tracked: contextlib.ExitStack, job: Job, order: Order) -> None:
        by_engine: defaultdict[str | None, list[Warmed]] = defaultdict(list)
        for placement in job.placements:
            by_engine[placement.instance_id].append(placement)
        try:
            with tracked:
                await asyncio.gather(
                    *(self._warm_each(job, some, order) for some in by_engine.values())
                )
                _check(job)
        except NotWarmedError as error:
            log.info("pins.not_warmed", event_id=job.event_id, reason=str(error))

    async def _warm_each(self, job: Job, placements: list[Warmed], order: Order) -> None:
        patience = Patience()
        for placement in placements:
            try:
                async with self._turns:
                    await self._warm(placement, order, patience)
            except LMCacheError as error:
                placement.reason = str(error)
            except Exception:
                log.exception("pins.warming_failed", pin_id=placement.pin_id)
                placement.reason = "the controller failed; its log says how"
            self._look(placement)
            placement.done = True
            job.answered += 1
            job.num_tokens = sum(p.num_tokens for p in job.placements if p.done)

    async def _warm(self, placement: Warmed, order: Order, patience: Patience) -> None:
        """Have a pin's prompt computed where it is missing."""
        instance_id, pin_id = placement.instance_id, placement.pin_id
        if instance_id is None:
            raise NotWarmedError(NOBODY_SERVES)
        engine = self._directory.get(instance_id)
        try:
            # Somebody may have had it computed meanwhile, or may just have it computed.
            placement.reason = await self._ask(pin_id, instance_id)
        except EngineRefusedError as error:
            if error.kind != "missing":
                raise
            placement.reason = str(error)
        row = self._ledger.get(pin_id)
        if not placement.reason or row is None:
            return
        if engine.serving_url is None:
            message = (
                f"instance {instance_id!r} has named no serving_url, so that nobody here can have "
                "it computed; set serving_url in the engine's configuration"
            )
            raise NotWarmedError(message)
        question = completion(row.content, engine.namespace.model, order.secrets)
        patience.check()
        with patience.counted():
            await self._servers.post(
                engine,
                PATH,
                question,
                Deadline(order.prompt_seconds),
                self._rank_headers(engine),
            )
        placement.computed = True
        reason = await self._ask(pin_id, instance_id)
        placement.reason = reason and f"its server has computed it, and still: {reason}"

    async def _ask(self, pin_id: str, instance_id: str) -> str:
        """Ask an engine anew for a pin; why it is not active, or an empty string."""
        place = await self._keeper.ask_again(pin_id, instance_id, Deadline(ASK_SECONDS))
        if place.state is PinState.ACTIVE:
            return ""
        return place.reason or f"{place.tokens_pinned} tokens of it are held"

    def _rank_headers(self, engine: EngineRecord) -> dict[str, str]:
        """What has a server of several data-parallel ranks compute in the right one.

        Where each rank has a server of its own, that knows of no other.
        """
        rank = rank_of(engine.instance_id)
        at = [one for one in self._directory.live() if one.serving_url == engine.serving_url]
        return {} if rank is None or len(at) < 2 else {RANK_HEADER: str(rank)}

    def _look(self, placement: Warmed) -> None:
        """Note what is known to hold."""
        row = self._ledger.get(placement.pin_id)
        place = None if row is None else row.present.get(placement.instance_id or "")
        if row is None or row.ended or place is None:
            placement.num_tokens = 0
            placement.state = PinState.PENDING if row is None else row.ended or PinState.PENDING
        else:
            placement.num_tokens, placement.state = place.tokens_pinned, place.state
            placement.tokens_asked = row.content.num_tokens
            if place.state is PinState.ACTIVE:
                placement.reason = ""


def _cold(row: PinRow, selection: Selection) -> list[Warmed]:
    """The placements of a pin that are meant and not active."""
    asked = row.content.num_tokens
    cold = [
        Warmed(
            pin_id=row.pin_id,
            instance_id=name,
            location=place.location,
            state=place.state,
            num_tokens=place.tokens_pinned,
            tokens_asked=asked,
            reason=place.reason,
        )
        for name, place in sorted(selection.places(row).items())
        if place.state is not PinState.ACTIVE
    ]
    if row.present:
        return cold
    return [
        Warmed(
            pin_id=row.pin_id,
            instance_id=None,
            location=wanted.location,
            state=PinState.PENDING,
            num_tokens=0,
            tokens_asked=asked,
        )
        for wanted in row.content.namespaces
    ]


def _check(job: Job) -> None:
    left = [placement for placement in job.placements if placement.state is not PinState.ACTIVE]
    if left:
        first = left[0]
        message = (
            f"{len(left)} of {len(job.placements)} placements are not active, the first of them "
            f"that of pin {first.pin_id!r} in {first.instance_id or 'no instance'}: {first.reason}"
        )
        raise NotWarmedError(message)
