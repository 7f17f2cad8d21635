"""Asking all engines that a request is about, and keeping its job in step."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from lmcache_core.api.deadline import Deadline
from lmcache_core.api.messages import Reply
from lmcache_core.controller.commands import CommandT
from lmcache_core.controller.engine_record import EngineRecord
from lmcache_core.controller.failures import EngineRefusedError
from lmcache_core.controller.jobs import Job
from lmcache_core.controller.plane import ControlPlane


async def ask_each(
    plane: ControlPlane,
    job: Job,
    engines: Sequence[EngineRecord],
    deadline: Deadline,
    kind: type[CommandT],
    **fields: Any,  # noqa: ANN401 - the fields of the kind
) -> list[Reply]:
    """Ask all ranks of an instance at once.

    The job has from then on the tokens of their answers together, those of
    one that failed, too.

    Raises:
        EngineRefusedError: One of them has not done all of it.
        EngineAwayError: One is gone, or goes while it is waited for.
        DeadlineExceededError: One did not answer in time.
        TooManyError: As many commands to one are under way as are kept.
    """
    job.asked += len(engines)
    work: dict[str, tuple[int, int]] = {}

    async def ask(engine: EngineRecord) -> Reply:
        def progressed(done: int, total: int) -> None:
            work[engine.instance_id] = done, total
            job.chunks_done = sum(done for done, _ in work.values())
            job.chunks = sum(total for _, total in work.values())

        reply = await plane.commands.ask(engine, deadline, kind, progressed=progressed, **fields)
        job.answered += 1
        return reply

    replies = await asyncio.gather(*(ask(engine) for engine in engines))
    job.num_tokens = sum(reply.num_tokens for reply in replies)
    return [accepted(reply) for reply in replies]


def accepted(reply: Reply) -> Reply:
    """A reply, unless it is a refusal.

    Raises:
        EngineRefusedError: It is.
    """
    if reply.error is not None:
        raise EngineRefusedError(reply)
    return reply
