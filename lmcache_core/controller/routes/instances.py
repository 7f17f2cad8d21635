"""``/v1/instances``: the engines."""

from __future__ import annotations

import msgspec
from litestar import Controller, get, post

from lmcache_core.api.messages import TierStatus
from lmcache_core.controller.engine_record import EngineRecord
from lmcache_core.controller.failures import EngineAwayError
from lmcache_core.controller.plane import ControlPlane
from lmcache_core.controller.problems import responses
from lmcache_core.keys import Namespace


class InstanceView(msgspec.Struct, frozen=True, kw_only=True):
    """One engine.

    Attributes:
        state: ``live``, ``silent`` or ``stopped``.
        registered_at: Unix time.
        heard_at: Unix time of its last message.
        namespace: What its keys are seeded with.
        namespace_digest: The namespace's name, in hex.
        namespace_identity: The same for all epochs of its weights: what pins are bound to.
        tiers: Its tiers, from the top.
        counters: Its running totals.
        pins: Number of pins that have a place in it.
        other_ledger: The ledger that its pins are in where that is not this controller's.
    """

    instance_id: str
    incarnation: int
    state: str
    host: str
    pid: int
    version: str
    serving_url: str | None
    heartbeat_seconds: float
    registered_at: float
    heard_at: float
    namespace: Namespace
    namespace_digest: str
    namespace_identity: str
    tiers: list[TierStatus]
    counters: dict[str, int]
    pins: int
    other_ledger: str | None


class InstanceList(msgspec.Struct, frozen=True):
    """All engines, by id."""

    instances: list[InstanceView]


class InstanceRoutes(Controller):
    """The engines this controller knows, live or not."""

    path = "/v1/instances"
    tags = ("instances",)

    @get("/", sync_to_thread=False, responses=responses())
    def list_instances(self, plane: ControlPlane) -> InstanceList:
        """List the engines."""
        return InstanceList([_view(plane, engine) for engine in plane.directory])

    @get("/{instance_id:str}", sync_to_thread=False, responses=responses(404))
    def get_instance(self, plane: ControlPlane, instance_id: str) -> InstanceView:
        """Show one engine."""
        return _view(plane, plane.directory.get(instance_id))

    @post("/{instance_id:str}/adopt", status_code=202, responses=responses(404, 503))
    async def adopt_instance(self, plane: ControlPlane, instance_id: str) -> InstanceList:
        """Take over the pins of an engine, or of a server's ranks, that are in another ledger."""
        engines = plane.directory.live_members(instance_id)
        for engine in engines:
            if not await plane.reception.adopt(engine):
                raise EngineAwayError(engine.instance_id, "cannot be sent to")
        return InstanceList([_view(plane, engine) for engine in engines])


def _view(plane: ControlPlane, engine: EngineRecord) -> InstanceView:
    return InstanceView(
        instance_id=engine.instance_id,
        incarnation=engine.incarnation,
        state=engine.state.value,
        host=engine.host,
        pid=engine.pid,
        version=engine.version,
        serving_url=engine.serving_url,
        heartbeat_seconds=engine.heartbeat_seconds,
        registered_at=engine.registered_at,
        heard_at=engine.heard_at,
        namespace=engine.namespace,
        namespace_digest=engine.digest.hex(),
        namespace_identity=engine.identity.hex(),
        tiers=list(engine.tiers),
        counters=engine.counters,
        pins=len(plane.ledger.at(engine.instance_id)),
        other_ledger=engine.other_ledger,
    )
