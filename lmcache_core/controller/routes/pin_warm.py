"""``/v1/pins:warm``: pins made active by having their prompts computed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec
from litestar import Controller, Response, post
from msgspec import Meta

from lmcache_core.api.pins import PinState
from lmcache_core.controller.completion import Secrets
from lmcache_core.controller.jobs import Job
from lmcache_core.controller.pin_row import PinRow
from lmcache_core.controller.plane import ControlPlane
from lmcache_core.controller.problems import responses
from lmcache_core.controller.routes import fields
from lmcache_core.controller.routes.scoped import Adapter, CacheSalt
from lmcache_core.controller.selection import Selection
from lmcache_core.controller.warmer import Order
from lmcache_core.errors import UnknownNameError


class WarmBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which pins are to be warmed, all that are not active by default, and how."""

    pin_ids: (
        Annotated[
            list[fields.PinId],
            Meta(min_length=1, max_length=512, description="These; all by default."),
        ]
        | None
    ) = None
    owner: fields.Owner | None = None
    instance_id: fields.InstanceId | None = None
    location: fields.PinLocation | None = None
    namespace: fields.Namespace | None = None
    state: PinState | None = None
    labels: fields.Labels = msgspec.field(default_factory=dict)
    cache_salt: CacheSalt | None = None
    adapters: Annotated[
        dict[Adapter, Annotated[str, Meta(min_length=1, max_length=1024)]],
        Meta(max_length=128, description="What servers call adapters, by content."),
    ] = msgspec.field(default_factory=dict)
    prompt_timeout_s: Annotated[
        float, Meta(gt=0, le=3600, description="Seconds a server may take to compute one prompt.")
    ] = 120.0

    def selection(self, plane: ControlPlane) -> Selection:
        """What holds of the pins that are meant.

        Raises:
            UnknownNameError: The namespace is not known.
            ConflictError: Its name means several.
        """
        namespace = self.namespace
        return Selection(
            owner=self.owner,
            instance_id=self.instance_id,
            location=self.location,
            identity=None if namespace is None else plane.directory.identity(namespace),
            state=self.state,
            labels=self.labels,
        )


class WarmRoutes(Controller):
    """Making pins active."""

    tags = ("pins",)

    @post(
        "/v1/pins:warm",
        status_code=202,
        responses=responses(404, 409, 415, 429),
    )
    async def warm_pins(self, plane: ControlPlane, data: WarmBody) -> Response[Job]:
        """Have the prompts of pins computed that are not active, which makes them active.

        Answers with the job, which goes on; what there is nothing to do for is done at once.
        """
        selection = data.selection(plane)
        rows = [row for row in _named(plane, data) if not row.ended and selection.matches(row)]
        order = Order(data.prompt_timeout_s, Secrets(data.cache_salt, data.adapters))
        job = plane.warmer.start(rows, selection, order)
        return Response(job, headers={"Location": f"/v1/jobs/{job.event_id}"})


def _named(plane: ControlPlane, data: WarmBody) -> Iterable[PinRow]:
    """The pins of the names that are given, or all.

    Raises:
        UnknownNameError: There is none of a name, or it is another owner's.
    """
    if data.pin_ids is None:
        return plane.ledger.rows()
    return [_pin(plane, pin_id, data.owner) for pin_id in dict.fromkeys(data.pin_ids)]


def _pin(plane: ControlPlane, pin_id: str, owner: str | None) -> PinRow:
    row = plane.ledger.get(pin_id)
    if row is None or row.ended or owner not in (None, row.content.owner):
        kind = "pin" if owner is None else f"pin of owner {owner!r}"
        raise UnknownNameError(kind, pin_id, None, hint="GET /v1/pins lists what is pinned.")
    return row
