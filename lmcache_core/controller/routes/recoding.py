"""``/compress`` and ``/decompress``: chunks encoded in another way where they are."""

from __future__ import annotations

from collections import Counter

from litestar import Controller, post

from lmcache_core.api.messages import RecodeCommand
from lmcache_core.controller.plane import ControlPlane
from lmcache_core.controller.problems import responses
from lmcache_core.controller.routes import classic_bodies as bodies
from lmcache_core.controller.routes.asking import ask_each
from lmcache_core.controller.routes.prompted import tokens_of

ANSWERS = responses(404, 409, 415, 429, 503, 504)


class RecodeRoutes(Controller):
    """The incumbent's routes, for the storage tiers and for every serde that is installed."""

    tags = ("classic",)

    @post("/compress", status_code=200, responses=ANSWERS)
    async def compress(self, plane: ControlPlane, data: bodies.RecodeBody) -> bodies.Recoded:
        """Encode chunks of a storage tier by serdes, those of some tokens or all."""
        return await _recode(plane, data, undo=False)

    @post("/decompress", status_code=200, responses=ANSWERS)
    async def decompress(self, plane: ControlPlane, data: bodies.RecodeBody) -> bodies.Recoded:
        """Make raw again what serdes have encoded in a storage tier, of some tokens or all."""
        return await _recode(plane, data, undo=True)


async def _recode(plane: ControlPlane, data: bodies.RecodeBody, *, undo: bool) -> bodies.Recoded:
    with plane.jobs.track("Decompress" if undo else "Compress") as job:
        engines = plane.directory.live_members(data.instance_id)
        for engine in engines:
            engine.check_location(data.location)
        deadline = plane.deadline(data.timeout_s)
        replies = await ask_each(
            plane,
            job,
            engines,
            deadline,
            RecodeCommand,
            location=data.location,
            serdes=tuple(data.method.split(",")),
            undo=undo,
            tokens=b"" if data.means_all else await tokens_of(plane, data, engines, deadline),
            scope=data.scope,
        )
        facts: Counter[str] = Counter()
        for reply in replies:
            facts.update(reply.facts)
        saved_bytes = facts.pop("saved_bytes", 0)
        chunks = {name.removesuffix("_chunks"): n for name, n in facts.items() if n}
    return bodies.Recoded(job.event_id, job.num_tokens or 0, chunks, saved_bytes)
