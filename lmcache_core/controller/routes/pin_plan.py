"""``/v1/pins:plan``: what a pin would cost, and whether it would fit."""

from __future__ import annotations

import uuid

import msgspec
from litestar import Controller, post

from lmcache_core.api.pins import PinCost
from lmcache_core.controller.pin_places import engines_of, places_of
from lmcache_core.controller.plane import ControlPlane
from lmcache_core.controller.problems import responses
from lmcache_core.controller.routes import fields
from lmcache_core.controller.routes.pins import PinBody


class PlanBody(PinBody, frozen=True, kw_only=True):
    """A pin that is not made; with the id of one that it would replace."""

    pin_id: fields.PinId | None = None


class PlaceCostView(PinCost, frozen=True, kw_only=True):
    """What a pin would cost in one instance, and why it would be refused there."""

    instance_id: str
    location: str
    fits: bool
    reason: str


class PlanView(msgspec.Struct, frozen=True, kw_only=True):
    """What a pin would cost.

    Attributes:
        fits: Whether it would be made.
        tokens_asked: Length of the sequence.
        placements: By instance; empty where none of its namespace is live.
    """

    fits: bool
    tokens_asked: int
    placements: list[PlaceCostView]


class PlanRoutes(Controller):
    """Asking before pinning."""

    tags = ("pins",)

    @post(
        "/v1/pins:plan",
        status_code=200,
        responses=responses(404, 409, 415, 429, 503, 504),
    )
    async def plan_pin(self, plane: ControlPlane, data: PlanBody) -> PlanView:
        """Say what a pin would cost and whether it would fit; nothing is changed."""
        with plane.jobs.track("PlanPin"):
            deadline = plane.deadline(data.timeout_s)
            content = await data.content(plane, deadline)
            engines = engines_of(plane.directory, content)
            pin_id = data.pin_id or f"plan-{uuid.uuid4().hex}"
            costs = await plane.planner.plan(
                pin_id, content, places_of(content, engines), engines, deadline
            )
        views = [
            PlaceCostView(
                **msgspec.structs.asdict(cost.cost),
                instance_id=cost.instance_id,
                location=cost.location,
                fits=not cost.reason,
                reason=cost.reason,
            )
            for cost in costs
        ]
        return PlanView(
            fits=all(view.fits for view in views),
            tokens_asked=content.num_tokens,
            placements=views,
        )
