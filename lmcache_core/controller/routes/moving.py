"""``/move``: chunks between the tiers of one instance, or from one instance to another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from litestar import Controller, post

from lmcache_core.api.messages import ClearCommand, MoveCommand
from lmcache_core.controller.engine_record import EngineRecord
from lmcache_core.controller.failures import FieldError
from lmcache_core.controller.jobs import Job
from lmcache_core.controller.plane import ControlPlane
from lmcache_core.controller.problems import responses
from lmcache_core.controller.routes import classic_bodies as bodies
from lmcache_core.controller.routes.asking import ask_each
from lmcache_core.controller.routes.prompted import tokens_of
from lmcache_core.controller.shared_store import SharedStore, shared_store
from lmcache_core.keys import TOKEN_BYTES


class MoveRoutes(Controller):
    """The incumbent's route, for one instance or two."""

    tags = ("classic",)

    @post("/move", status_code=200, responses=responses(404, 409, 415, 429, 503, 504))
    async def move(self, plane: ControlPlane, data: bodies.MoveBody) -> bodies.Counted:
        """Bring the chunks of some tokens to another tier of an instance, or to another instance.

        From one instance to another they go by way of a store that both
        share, and leave the old place once they are in the new one.
        """
        with plane.jobs.track("Move") as job:
            (instance_id, location), (new_instance_id, target) = (
                data.old_position,
                data.new_position,
            )
            if data.old_position == data.new_position:
                raise FieldError(f"new_position: {target!r} is the old position, too")
            sources = plane.directory.live_members(instance_id)
            targets = plane.directory.live_members(new_instance_id)
            for engine in sources:
                engine.check_location(location)
            for engine in targets:
                engine.check_location(target)
            if instance_id == new_instance_id:
                deadline = plane.deadline(data.timeout_s)
                await ask_each(
                    plane,
                    job,
                    sources,
                    deadline,
                    MoveCommand,
                    location=location,
                    target=target,
                    tokens=await tokens_of(plane, data, sources, deadline),
                    scope=data.scope,
                    keep=data.should_copy,
                )
            elif not {one.instance_id for one in sources}.isdisjoint(
                one.instance_id for one in targets
            ):
                message = (
                    f"new_position: {new_instance_id!r} and {instance_id!r} are the same engine, "
                    "or one is a rank of the other; name two ranks, or one instance twice"
                )
                raise FieldError(message)
            else:
                store = shared_store(sources, targets, location, target)
                if store is None:
                    message = (
                        f"new_position: {target!r} of {new_instance_id!r} is the same store as "
                        f"{location!r} of {instance_id!r}, so that the chunks are there already"
                    )
                    raise FieldError(message)
                await _move_between(plane, job, data, (sources, targets), store)
        return bodies.Counted(job.event_id, job.num_tokens or 0)


async def _move_between(
    plane: ControlPlane,
    job: Job,
    data: bodies.MoveBody,
    between: tuple[Sequence[EngineRecord], Sequence[EngineRecord]],
    store: SharedStore,
) -> None:
    """Bring chunks down into a store here, take them up there, and let go of them here."""
    sources, targets = between
    location, target = data.old_position[1], data.new_position[1]
    deadline = plane.deadline(data.timeout_s)
    tokens = await tokens_of(plane, data, [*sources, *targets], deadline)
    ask = partial(ask_each, plane, job, deadline=deadline, scope=data.scope)
    await ask(
        sources,
        kind=MoveCommand,
        location=location,
        target=store.source,
        tokens=tokens,
        keep=True,
        refuse_pinned=not data.should_copy,
    )
    replies = await ask(
        targets, kind=MoveCommand, location=store.target, target=target, tokens=tokens, keep=True
    )
    # Of several ranks, what each of them has.
    arrived = job.num_tokens = min(reply.num_tokens for reply in replies)
    if data.should_copy or not arrived:
        return
    # Nothing leaves the old place that is not in the new one.
    there = tokens[: arrived * TOKEN_BYTES]
    try:
        if location == store.source:
            await ask(sources, kind=ClearCommand, location=location, tokens=there)
        else:
            await ask(
                sources, kind=MoveCommand, location=location, target=store.source, tokens=there
            )
    finally:
        job.num_tokens = arrived
