"""The incumbent's routes: the same JSON, honest answers.

Every one waits for what it asks for and answers what was done, or with a
problem document. ``event_id`` names the operation for ``/check_finish``.
"""

from __future__ import annotations

from litestar import Controller, get, post

from lmcache_core.api.deadline import Deadline
from lmcache_core.api.messages import ClearCommand, HealthCommand
from lmcache_core.controller import hosts
from lmcache_core.controller.failures import FieldError
from lmcache_core.controller.jobs import JobState
from lmcache_core.controller.pin_row import PinContent, Place, classic_pin_id
from lmcache_core.controller.plane import ControlPlane
from lmcache_core.controller.problems import responses
from lmcache_core.controller.routes import classic_bodies as bodies
from lmcache_core.controller.routes.asking import accepted, ask_each
from lmcache_core.controller.routes.pin_view import view
from lmcache_core.controller.routes.prompted import tokens_of
from lmcache_core.controller.selection import Selection
from lmcache_core.errors import UnknownNameError

WAITS = responses(404, 409, 415, 429, 503, 504, 507)
ASKS = responses(404, 415, 503, 504)


class ClassicRoutes(Controller):
    """What users of LMCache's controller call."""

    tags = ("classic",)

    @post("/pin", status_code=200, responses=WAITS)
    async def pin(self, plane: ControlPlane, data: bodies.PinBody) -> bodies.Counted:
        """Pin the cached prefix of some tokens; the same body again renews the pin."""
        with plane.jobs.track("Pin") as job:
            deadline = plane.deadline(data.timeout_s)
            job.pin_id, content = await _pin(plane, data, deadline)
            kept = await plane.keeper.renew(job.pin_id, content, deadline)
            job.num_tokens = kept.num_tokens
        return bodies.Counted(job.event_id, kept.num_tokens)

    @post("/unpin", status_code=200, responses=WAITS)
    async def unpin(self, plane: ControlPlane, data: bodies.UnpinBody) -> bodies.Counted:
        """Release a pin; what is released already counts 0 tokens."""
        with plane.jobs.track("Unpin") as job:
            deadline = plane.deadline(data.timeout_s)
            job.pin_id = await _pin_to_release(plane, data, deadline)
            row = plane.ledger.get(job.pin_id)
            job.num_tokens = 0
            if data.pin_id is not None or (row is not None and not row.ended):
                released = await plane.keeper.release(job.pin_id, deadline)
                job.num_tokens = released.num_tokens
                if released.failures:
                    # The release stands, but nobody can say yet how much it freed.
                    raise released.failures[0]
        return bodies.Counted(job.event_id, job.num_tokens)

    @post("/pins", status_code=200, responses=ASKS)
    async def pins(
        self, plane: ControlPlane, data: bodies.PinsBody | None = None
    ) -> bodies.PinsAnswer:
        """List pins, all or those that match."""
        return _pins(plane, data or bodies.PinsBody())

    @get("/pins", sync_to_thread=False, responses=responses())
    def get_pins(
        self,
        plane: ControlPlane,
        instance_id: str | None = None,
        location: str | None = None,
        owner: str | None = None,
    ) -> bodies.PinsAnswer:
        """List pins, all or those that match."""
        return _pins(
            plane, bodies.PinsBody(instance_id=instance_id, location=location, owner=owner)
        )

    @post("/lookup", status_code=200, responses=ASKS)
    async def lookup(self, plane: ControlPlane, data: bodies.LookupBody) -> bodies.Layout:
        """Say who holds how much of some tokens, stores under way included."""
        with plane.jobs.track("Lookup") as job:
            settle = plane.config.lookup_settle_seconds
            deadline = plane.deadline(data.timeout_s)
            found = await plane.lookup.find(
                await tokens_of(plane, data, plane.directory.live(), deadline),
                data.scope,
                settle_seconds=min(settle, data.timeout_s or settle),
            )
        return bodies.Layout(job.event_id, found)

    @post("/clear", status_code=200, responses=WAITS)
    async def clear(self, plane: ControlPlane, data: bodies.ClearBody) -> bodies.Counted:
        """Drop unpinned chunks of a tier, those of some tokens or all."""
        with plane.jobs.track("Clear") as job:
            engines = plane.directory.live_members(data.instance_id)
            for engine in engines:
                engine.check_location(data.location)
            deadline = plane.deadline(data.timeout_s)
            everything = data.is_empty
            tokens = b"" if everything else await tokens_of(plane, data, engines, deadline)
            await ask_each(
                plane,
                job,
                engines,
                deadline,
                ClearCommand,
                location=data.location,
                tokens=tokens,
                scope=data.scope,
                force=data.force,
            )
        return bodies.Counted(job.event_id, job.num_tokens or 0)

    @post("/health", status_code=200, responses=WAITS)
    async def health(self, plane: ControlPlane, data: bodies.HealthBody) -> bodies.HealthAnswer:
        """Ask an engine whether it is well."""
        with plane.jobs.track("Health") as job:
            deadline = plane.deadline(data.timeout_s)
            codes: dict[str, int] = {}
            for engine in plane.directory.live_members(data.instance_id):
                reply = accepted(await plane.commands.ask(engine, deadline, HealthCommand))
                for _ in range(engine.namespace.ranks):
                    codes[str(len(codes))] = reply.facts.get("unhealthy_tiers", 0)
        return bodies.HealthAnswer(job.event_id, codes)

    @post("/check_finish", status_code=200, sync_to_thread=False, responses=ASKS)
    def check_finish(
        self, plane: ControlPlane, data: bodies.CheckFinishBody
    ) -> bodies.StatusAnswer:
        """Say how far an operation is."""
        job = plane.jobs.get(data.event_id)
        if job.state is JobState.RUNNING:
            far = (job.chunks, job.chunks_done) if job.chunks else ()
            return bodies.StatusAnswer(job.state.value, job.asked, job.answered, *far)
        return bodies.StatusAnswer(job.state.value)

    @post("/query_instance", status_code=200, responses=ASKS)
    async def query_instance(
        self, plane: ControlPlane, data: bodies.QueryInstanceBody
    ) -> bodies.InstanceAnswer:
        """Say which live instance is on a host, by address or name."""
        with plane.jobs.track("QueryInst") as job:
            engines = plane.directory.live()
            engine = await hosts.engine_on(engines, data.ip)
            if engine is None:
                kind = "host"
                raise UnknownNameError(kind, data.ip, {e.host for e in engines})
        return bodies.InstanceAnswer(data.event_id or job.event_id, engine.instance_id)

    @post("/query_worker_info", status_code=200, sync_to_thread=False, responses=ASKS)
    def query_worker_info(
        self, plane: ControlPlane, data: bodies.QueryWorkerInfoBody
    ) -> bodies.WorkersAnswer:
        """List the workers of an instance, or of all live ones."""
        with plane.jobs.track("QueryWorkerInfo") as job:
            known = plane.directory
            everyone = data.instance_id == "all"
            engines = known.live() if everyone else known.members(data.instance_id)
            wanted = None if data.worker_ids is None else frozenset(data.worker_ids)
            infos = [
                bodies.WorkerInfo(
                    instance_id=engine.instance_id,
                    worker_id=rank,
                    ip=engine.host,
                    port=0,
                    peer_init_url=None,
                    registration_time=engine.registered_at,
                    last_heartbeat_time=engine.heard_at,
                )
                for engine in engines
                for rank in range(engine.namespace.ranks)
                if wanted is None or rank in wanted
            ]
        return bodies.WorkersAnswer(data.event_id or job.event_id, infos)


async def _pin(
    plane: ControlPlane, data: bodies.PinBody, deadline: Deadline
) -> tuple[str, PinContent]:
    """The name and content of a classic pin."""
    engines = plane.directory.live_members(data.instance_id)
    content = PinContent(
        owner=data.owner,
        places=tuple(Place(engine.instance_id, data.location) for engine in engines),
        tokens=await tokens_of(plane, data, engines, deadline),
        scope=data.scope,
        ttl_seconds=data.ttl_s,
        on_missing=data.on_missing,
        labels=data.labels,
    )
    pin_id = classic_pin_id(
        data.owner,
        Place(data.instance_id, data.location),
        identity=engines[0].identity,
        scope=content.scope,
        tokens=content.tokens,
    )
    return pin_id, content


async def _pin_to_release(plane: ControlPlane, data: bodies.UnpinBody, deadline: Deadline) -> str:
    if data.pin_id is not None:
        return data.pin_id
    if data.event_id is not None:
        job = plane.jobs.get(data.event_id)
        if job.pin_id is None:
            message = f"event_id: {data.event_id!r} is a {job.operation}, which makes no pin"
            raise FieldError(message)
        return job.pin_id
    if data.instance_id is None or data.location is None or data.is_empty:
        message = (
            "give pin_id, or the event_id of the /pin, or instance_id, location and tokens as "
            "they were given to it"
        )
        raise FieldError(message)
    engine = plane.directory.members(data.instance_id)[0]
    engine.check_pin_location(data.location)
    return classic_pin_id(
        data.owner,
        Place(data.instance_id, data.location),
        identity=engine.identity,
        scope=data.scope,
        tokens=await tokens_of(plane, data, [engine], deadline),
    )


def _pins(plane: ControlPlane, wanted: bodies.PinsBody) -> bodies.PinsAnswer:
    selection = Selection(
        owner=wanted.owner, instance_id=wanted.instance_id, location=wanted.location
    )
    with plane.jobs.track("ListPins") as job:
        pins = [view(row) for row in filter(selection.matches, plane.ledger.rows())]
    return bodies.PinsAnswer(job.event_id, pins)
