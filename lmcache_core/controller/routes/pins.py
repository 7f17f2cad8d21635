"""``/v1/pins``: pins as resources."""

from __future__ import annotations

import re
import uuid
from typing import Annotated

import msgspec
from litestar import Controller, Response, delete, get, patch, post, put
from litestar.params import Parameter
from msgspec import Meta

from lmcache_core.api.deadline import Deadline
from lmcache_core.api.pins import PIN_ID_PATTERN, PinState, Renew
from lmcache_core.controller.failures import FieldError
from lmcache_core.controller.pin_change import ANY_VERSION, Amendment
from lmcache_core.controller.pin_row import PinContent, PinRow
from lmcache_core.controller.plane import ControlPlane
from lmcache_core.controller.problems import responses
from lmcache_core.controller.routes import fields
from lmcache_core.controller.routes.paging import Limit, page_of
from lmcache_core.controller.routes.pin_terms import PinTerms
from lmcache_core.controller.routes.pin_view import PinView, view
from lmcache_core.controller.routes.placements import (
    Placement,
    instance_places,
    namespace_places,
)
from lmcache_core.controller.routes.prompted import tokens_of
from lmcache_core.controller.selection import Selection
from lmcache_core.errors import UnknownNameError

_PIN_ID = re.compile(PIN_ID_PATTERN)

IfMatch = Annotated[
    str | None,
    Parameter(header="If-Match", description='The version to replace, as "N", or *.'),
]


class PinBody(PinTerms, frozen=True, kw_only=True):
    """What is to be pinned, where, for how long."""

    placements: Annotated[
        list[Placement],
        Meta(min_length=1, max_length=64, description="One per instance or namespace."),
    ]
    renew: Renew = Renew.FIXED

    async def content(self, plane: ControlPlane, deadline: Deadline) -> PinContent:
        """What the ledger keeps of it.

        Raises:
            FieldError: Two placements are in one instance, or it is not clear
                what they or the tokens are.
            UnknownNameError: An instance or a namespace is not known.
        """
        places = instance_places(plane.directory, self.placements)
        namespaces = namespace_places(plane.directory, self.placements)
        named = [plane.directory.get(place.instance_id) for place in places]
        serving = [e for wanted in namespaces for e in plane.directory.serving(wanted.identity)]
        return PinContent(
            owner=self.owner,
            places=places,
            namespaces=namespaces,
            tokens=await tokens_of(plane, self, [*named, *serving], deadline),
            scope=self.scope,
            ttl_seconds=self.ttl_s,
            renew=self.renew,
            on_missing=self.on_missing,
            labels=self.labels,
        )


class PinPatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be changed of a pin; what is not named stays."""

    ttl_s: fields.TtlSeconds | msgspec.UnsetType | None = msgspec.UNSET
    renew: Renew | msgspec.UnsetType = msgspec.UNSET
    labels: fields.Labels | msgspec.UnsetType = msgspec.UNSET
    timeout_s: fields.TimeoutSeconds | None = None


class PinList(msgspec.Struct, frozen=True):
    """A page of pins.

    Attributes:
        pins: By id.
        next: What to give as ``after`` for the next page, or None.
    """

    pins: list[PinView]
    next: str | None


class PinRoutes(Controller):
    """Pins by name, with versions."""

    path = "/v1/pins"
    tags = ("pins",)

    @put(
        "/{pin_id:str}",
        responses=responses(404, 409, 412, 415, 429, 503, 504, 507),
    )
    async def put_pin(
        self,
        plane: ControlPlane,
        pin_id: str,
        data: PinBody,
        if_match: IfMatch = None,
        if_none_match: Annotated[
            str | None, Parameter(header="If-None-Match", description="* to only create.")
        ] = None,
    ) -> Response[PinView]:
        """Pin, renew or replace.

        The same body again is safe: an active pin is answered as it is, another
        is asked for again. Another body needs If-Match with the version.
        """
        _check_id(pin_id)
        if if_none_match not in (None, "*"):
            message = f"If-None-Match: {if_none_match!r} will not do, only *"
            raise FieldError(message)
        with plane.jobs.track("PutPin") as job:
            job.pin_id = pin_id
            deadline = plane.deadline(data.timeout_s)
            kept = await plane.keeper.put(
                pin_id,
                await data.content(plane, deadline),
                deadline,
                if_match=_version(if_match),
                if_none_match=if_none_match is not None,
            )
            job.num_tokens = kept.num_tokens
        return _answer(kept.row, 201 if kept.created else 200)

    @post("/", status_code=201, responses=responses(404, 409, 415, 429, 503, 504, 507))
    async def post_pin(self, plane: ControlPlane, data: PinBody) -> Response[PinView]:
        """Pin under a new name, which the answer tells."""
        with plane.jobs.track("PostPin") as job:
            job.pin_id = pin_id = f"pin-{uuid.uuid4().hex}"
            deadline = plane.deadline(data.timeout_s)
            kept = await plane.keeper.put(pin_id, await data.content(plane, deadline), deadline)
            job.num_tokens = kept.num_tokens
        answer = _answer(kept.row, 201)
        answer.headers["Location"] = f"{self.path}/{pin_id}"
        return answer

    @patch(
        "/{pin_id:str}",
        responses=responses(404, 409, 412, 415, 429, 503, 504, 507),
    )
    async def patch_pin(
        self, plane: ControlPlane, pin_id: str, data: PinPatch, if_match: IfMatch = None
    ) -> Response[PinView]:
        """Change how long a pin lives or its labels.

        Its time starts anew where ttl_s is named, and of a pin that hits renew.
        """
        with plane.jobs.track("PatchPin") as job:
            job.pin_id = pin_id
            kept = await plane.keeper.amend(
                pin_id,
                Amendment(data.ttl_s, data.renew, data.labels),
                plane.deadline(data.timeout_s),
                if_match=_version(if_match),
            )
            job.num_tokens = kept.num_tokens
        return _answer(kept.row, 200)

    @get("/{pin_id:str}", sync_to_thread=False, responses=responses(404))
    def get_pin(self, plane: ControlPlane, pin_id: str) -> Response[PinView]:
        """Show a pin."""
        row = plane.ledger.get(pin_id)
        if row is None:
            kind = "pin"
            raise UnknownNameError(kind, pin_id, None, hint="GET /v1/pins lists what is pinned.")
        return _answer(row, 200)

    @get("/", sync_to_thread=False, responses=responses(404, 409))
    def list_pins(
        self,
        *,
        plane: ControlPlane,
        owner: str | None = None,
        instance_id: str | None = None,
        location: str | None = None,
        namespace: Annotated[
            str | None, Parameter(query="namespace", description="A model's name or an identity.")
        ] = None,
        pin_state: Annotated[PinState | None, Parameter(query="state")] = None,
        label: Annotated[
            list[str] | None, Parameter(query="label", description="key=value, all must hold.")
        ] = None,
        limit: Limit = 100,
        after: str = "",
    ) -> PinList:
        """List pins by id, those that match."""
        selection = Selection(
            owner=owner,
            instance_id=instance_id,
            location=location,
            identity=None if namespace is None else plane.directory.identity(namespace),
            state=pin_state,
            labels=dict(map(_label, label or ())),
        )
        page, last = page_of(filter(selection.matches, plane.ledger.rows(after)), limit)
        return PinList([view(row) for row in page], None if last is None else last.pin_id)

    @delete(
        "/{pin_id:str}",
        status_code=200,
        responses=responses(404, 412, 503, 504),
    )
    async def delete_pin(
        self,
        plane: ControlPlane,
        pin_id: str,
        if_match: IfMatch = None,
        timeout_s: Annotated[
            float | None,
            Parameter(gt=0, le=300, description="Deadline of this request in seconds."),
        ] = None,
    ) -> Response[PinView]:
        """Release a pin.

        200 where every engine has acknowledged it, 202 where one has not yet; it
        is told again when it is next heard of.
        """
        with plane.jobs.track("DeletePin") as job:
            job.pin_id = pin_id
            released = await plane.keeper.release(
                pin_id, plane.deadline(timeout_s), if_match=_version(if_match)
            )
            job.num_tokens = released.num_tokens
        return _answer(released.row, 202 if released.failures else 200)


def _answer(row: PinRow, status: int) -> Response[PinView]:
    return Response(view(row), status_code=status, headers={"ETag": f'"{row.version}"'})


def _label(item: str) -> tuple[str, str]:
    name, given, value = item.partition("=")
    if not given:
        raise FieldError(f"label: {item!r} is wrong; give key=value")
    return name, value


def _check_id(pin_id: str) -> None:
    if not _PIN_ID.fullmatch(pin_id):
        message = f"pin id {pin_id!r}: use 1 to 128 of the characters A-Z a-z 0-9 . _ ~ -"
        raise FieldError(message)


def _version(if_match: str | None) -> int | None:
    """Read If-Match.

    Raises:
        FieldError: It is no version.
    """
    if if_match is None:
        return None
    if if_match.strip() == "*":
        return ANY_VERSION
    text = if_match.strip().strip('"')
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        message = f'If-Match: {if_match!r} is no version; send the ETag, for example "17", or *'
        raise FieldError(message)
    return int(text)
