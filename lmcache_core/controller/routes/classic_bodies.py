"""Requests and answers of the classic routes."""

from __future__ import annotations

import msgspec

from lmcache_core.controller.routes import fields
from lmcache_core.controller.routes.pin_terms import PinTerms
from lmcache_core.controller.routes.pin_view import PinView
from lmcache_core.controller.routes.prompted import Prompted


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Root of requests."""


class PinBody(PinTerms, frozen=True, kw_only=True):
    """Pin a token sequence in one instance; all but the first three fields are optional extras."""

    instance_id: fields.InstanceId
    location: fields.PinLocation


class UnpinBody(PinTerms, frozen=True, kw_only=True):
    """Release a pin: its id, or the event that made it, or the body that asked for it."""

    pin_id: fields.PinId | None = None
    event_id: fields.EventId | None = None
    instance_id: fields.InstanceId | None = None
    location: fields.PinLocation | None = None


class PinsBody(Body, frozen=True, kw_only=True):
    """List pins, all or those that match."""

    instance_id: fields.InstanceId | None = None
    location: fields.PinLocation | None = None
    owner: fields.Owner | None = None


class LookupBody(Prompted, frozen=True, kw_only=True):
    """Ask who holds a token sequence."""

    timeout_s: fields.TimeoutSeconds | None = None


class ClearBody(Prompted, frozen=True, kw_only=True):
    """Drop unpinned chunks of a tier: of some tokens, or all of them where none are named."""

    instance_id: fields.InstanceId
    location: fields.Location
    force: bool = False
    timeout_s: fields.TimeoutSeconds | None = None


class MoveBody(Prompted, frozen=True, kw_only=True):
    """Bring the chunks of some tokens to another tier, of the same instance or of another."""

    old_position: fields.Position
    new_position: fields.Position
    should_copy: bool = False
    timeout_s: fields.TimeoutSeconds | None = None


class RecodeBody(Prompted, frozen=True, kw_only=True):
    """Encode chunks of a storage tier: of some tokens, or all where none are named."""

    instance_id: fields.InstanceId
    method: fields.Method
    location: fields.Location
    tokens: list[fields.TokenId] | None = None
    timeout_s: fields.TimeoutSeconds | None = None

    @property
    def means_all(self) -> bool:
        """Whether it names no tokens; the incumbent's clients send an empty list then."""
        return not self.tokens and self.prompt is None and self.messages is None


class HealthBody(Body, frozen=True, kw_only=True):
    """Ask an engine whether it is well."""

    instance_id: fields.InstanceId
    timeout_s: fields.TimeoutSeconds | None = None


class CheckFinishBody(Body, frozen=True, kw_only=True):
    """Ask how far an operation is."""

    event_id: fields.EventId


class QueryInstanceBody(Body, frozen=True, kw_only=True):
    """Ask which instance is on a host."""

    ip: fields.Host
    event_id: fields.EventId | None = None


class QueryWorkerInfoBody(Body, frozen=True, kw_only=True):
    """Ask for the workers of an instance, or of ``all``."""

    instance_id: fields.InstanceId
    worker_ids: list[int] | None = None
    event_id: fields.EventId | None = None


class Counted(msgspec.Struct, frozen=True):
    """How many tokens an operation was about."""

    event_id: str
    num_tokens: int


class Recoded(msgspec.Struct, frozen=True):
    """How many tokens were encoded anew, and what became of the chunks that were meant.

    Attributes:
        event_id: The operation's name and a uuid.
        num_tokens: Tokens whose chunks were encoded anew.
        chunks: Number of chunks by what became of them.
        saved_bytes: By how many bytes the tier has less; less than 0 where it has more.
    """

    event_id: str
    num_tokens: int
    chunks: dict[str, int]
    saved_bytes: int


class Layout(msgspec.Struct, frozen=True):
    """By instance, the location that holds most of a sequence, and how many tokens."""

    event_id: str
    layout_info: dict[str, tuple[str, int]]


class PinsAnswer(msgspec.Struct, frozen=True):
    """All pins that match."""

    event_id: str
    pins: list[PinView]


class HealthAnswer(msgspec.Struct, frozen=True):
    """By worker, 0 where all is well, else the number of tiers that are not."""

    event_id: str
    error_codes: dict[str, int]


class StatusAnswer(msgspec.Struct, frozen=True):
    """How far an operation is.

    Attributes:
        status: ``running``, ``done``, ``failed`` or ``unknown``.
        asked: Engines that it waits for, while it is running.
        answered: Those of them that are done.
        chunks: Chunks that they have found to be meant, while it is running.
        chunks_done: Those of them that they are done with.
    """

    status: str
    asked: int | msgspec.UnsetType = msgspec.UNSET
    answered: int | msgspec.UnsetType = msgspec.UNSET
    chunks: int | msgspec.UnsetType = msgspec.UNSET
    chunks_done: int | msgspec.UnsetType = msgspec.UNSET


class InstanceAnswer(msgspec.Struct, frozen=True):
    """The instance on a host."""

    event_id: str
    res: str


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One rank; the engine speaks for all of its ranks."""

    instance_id: str
    worker_id: int
    ip: str
    port: int
    peer_init_url: str | None
    registration_time: float
    last_heartbeat_time: float


class WorkersAnswer(msgspec.Struct, frozen=True):
    """The ranks that match."""

    event_id: str
    worker_infos: list[WorkerInfo]
