"""Messages between engine and controller, as msgspec Structs.

A transport turns :func:`to_wire`'s plain value into bytes and gives what it
reads to :func:`engine_message` or :func:`controller_message`. Every message
carries its type under ``t``; unknown fields are ignored, so that a minor
version may add some.
"""

from __future__ import annotations

from typing import Any

import msgspec

from lmcache_core.api.pins import PinRenewal, PinReport, PinRequest
from lmcache_core.errors import MessageError
from lmcache_core.keys import EMPTY_SCOPE, Namespace, Scope

PROTOCOL_VERSION = 1
"""Version of the messages; a transport puts it into every frame."""


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="t"):
    """Root of all messages."""


class TierStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One tier of an engine.

    Attributes:
        location: Its name.
        kind: ``memory`` or ``storage``.
        capacity_bytes: Its bound; 0 where the store has its own.
        used_bytes: Bytes of all entries.
        pinned_bytes: Distinct bytes marked or reserved by pins.
        entries: Number of entries.
        healthy: False while its circuit breaker is open.
        store_id: Of a store that several engines share, its name, the same for
            all of them; empty for one of the engine's own.
    """

    location: str
    kind: str
    capacity_bytes: int
    used_bytes: int = 0
    pinned_bytes: int = 0
    entries: int = 0
    healthy: bool = True
    store_id: str = ""


class Register(Message, frozen=True, kw_only=True, tag="register"):
    """An engine introduces itself, at start and whenever it is asked to.

    Once it is welcomed it names its pins in :class:`Held`.

    Attributes:
        instance_id: The engine's configured id.
        incarnation: Start time in nanoseconds; a higher one replaces a lower.
        namespace: What its keys are seeded with.
        tiers: Its tiers, from the top.
        sequence: Number of the last event it has sent.
        pid: Its process.
        host: Its host's name.
        serving_url: Where its server answers, or None.
        version: Version of its core.
        heartbeat_seconds: How often it will be heard of.
        ledger_id: The ledger that its pins are in; empty where it has none.
    """

    instance_id: str
    incarnation: int
    namespace: Namespace
    tiers: tuple[TierStatus, ...]
    sequence: int = 0
    pid: int = 0
    host: str = ""
    serving_url: str | None = None
    version: str = ""
    heartbeat_seconds: float = 5.0
    ledger_id: str = ""


class Held(Message, frozen=True, kw_only=True, tag="held"):
    """Some of the pins that a welcomed engine holds, so that a new controller learns of them.

    Attributes:
        pins: What it holds.
        pin_requests: The same pins as they were asked for, in the same order.
        last: Whether all have been named.
    """

    instance_id: str
    incarnation: int
    pins: tuple[PinReport, ...] = ()
    pin_requests: tuple[PinRequest, ...] = ()
    last: bool = False


class Heartbeat(Message, frozen=True, kw_only=True, tag="heartbeat"):
    """An engine is alive; ``sequence`` shows a gap in its events.

    Attributes:
        counters: Running totals, for example ``hit_tokens``.
        pins: Reports of pins that changed since the last heartbeat.
        pin_requests: Pins that requests have asked for and no ledger has
            acknowledged; the report of each is in ``pins`` and says ``local``.
    """

    instance_id: str
    incarnation: int
    sequence: int
    tiers: tuple[TierStatus, ...] = ()
    counters: dict[str, int] = {}
    pins: tuple[PinReport, ...] = ()
    pin_requests: tuple[PinRequest, ...] = ()


class Events(Message, frozen=True, kw_only=True, tag="events"):
    """A batch of admissions and evictions in packed arrays.

    Attributes:
        sequence: Number of this batch; each is one above the one before.
        location: The tier they happened in.
        admitted: Keys, 32 bytes each.
        evicted: Keys, 32 bytes each.
        snapshot: True for a part of a snapshot: its keys are what is there.
        last: True for the last part of a snapshot over all tiers.
    """

    instance_id: str
    incarnation: int
    sequence: int
    location: str
    admitted: bytes = b""
    evicted: bytes = b""
    snapshot: bool = False
    last: bool = False


class Reply(Message, frozen=True, kw_only=True, tag="reply"):
    """The answer to a command.

    Attributes:
        request_id: The command's.
        num_tokens: Tokens pinned, released, cleared or found.
        pin: The report on a pin that was made or renewed.
        error: None, or which kind of failure: ``invalid``, ``capacity``,
            ``conflict``, ``unknown_location``, ``missing``, ``not_held``,
            ``deadline`` or ``internal``.
        detail: The failure in a sentence.
        facts: Its numbers, for the problem document.
    """

    instance_id: str
    incarnation: int
    request_id: str
    num_tokens: int = 0
    pin: PinReport | None = None
    error: str | None = None
    detail: str = ""
    facts: dict[str, int] = {}


class Progress(Message, frozen=True, kw_only=True, tag="progress"):
    """How far an engine is with a command that takes its time.

    Attributes:
        request_id: The command's.
        done: Chunks that it is done with.
        total: Chunks that it has found to be meant.
    """

    instance_id: str
    incarnation: int
    request_id: str
    done: int
    total: int


class Goodbye(Message, frozen=True, kw_only=True, tag="goodbye"):
    """An engine stops."""

    instance_id: str
    incarnation: int


class Welcome(Message, frozen=True, kw_only=True, tag="welcome"):
    """The controller has registered an engine.

    Attributes:
        ledger_id: Names the pin ledger; an engine serves one.
        want_snapshot: Whether the engine is to send a snapshot.
        adopts: Whether the ledger takes over the pins of another one.
    """

    instance_id: str
    incarnation: int
    ledger_id: str
    want_snapshot: bool = True
    adopts: bool = False


class Refused(Message, frozen=True, kw_only=True, tag="refused"):
    """The controller does not manage this engine; it serves on unmanaged and asks again."""

    instance_id: str
    incarnation: int
    reason: str


class Adopted(Message, frozen=True, kw_only=True, tag="adopted"):
    """Pins that requests have asked for and that are in the ledger now.

    Attributes:
        instance_id: The engine that has named them.
        incarnation: Its incarnation.
        versions: By id of the pin, the version the ledger has.
    """

    instance_id: str
    incarnation: int
    versions: dict[str, int]


class Identify(Message, frozen=True, kw_only=True, tag="identify"):
    """The controller does not know who is speaking and asks it to register."""


class WantSnapshot(Message, frozen=True, kw_only=True, tag="want_snapshot"):
    """The controller saw a gap in the events and asks for a snapshot."""


class Command(Message, frozen=True, kw_only=True):
    """Root of commands.

    Attributes:
        request_id: Names the command; its reply carries it.
        deadline_seconds: Time left to answer in.
        http_request_id: The HTTP request it serves, for log lines; empty for none.
    """

    request_id: str
    deadline_seconds: float
    http_request_id: str = ""


class PinCommand(Command, frozen=True, kw_only=True, tag="pin"):
    """Pin, or change a pin with a higher version."""

    pin: PinRequest


class RenewCommand(Command, frozen=True, kw_only=True, tag="renew"):
    """Change a pin that the engine holds whole; its tokens are not sent again.

    The answer is that of a :class:`PinCommand`, or the error ``not_held``: then
    the pin is to be asked for by one.
    """

    renewal: PinRenewal


class PlanCommand(Command, frozen=True, kw_only=True, tag="plan"):
    """Say what a pin would cost and whether it would fit, and change nothing.

    ``num_tokens`` of the reply is how many tokens are cached, ``facts`` has the
    numbers of :class:`~lmcache_core.api.pins.PinCost` that are not None.
    """

    pin: PinRequest


class UnpinCommand(Command, frozen=True, kw_only=True, tag="unpin"):
    """Release a pin; ``num_tokens`` of the reply is what was released."""

    pin_id: str
    version: int


class ClearCommand(Command, frozen=True, kw_only=True, tag="clear"):
    """Drop unpinned entries of a tier; ``tokens`` empty means all of them."""

    location: str
    tokens: bytes = b""
    scope: Scope = EMPTY_SCOPE
    force: bool = False


class MoveCommand(Command, frozen=True, kw_only=True, tag="move"):
    """Bring the chunks of some tokens from one tier to another.

    ``num_tokens`` of the reply is how many tokens, from the first on, are in
    the new tier; with the error ``deadline`` it is in ``facts``.

    Attributes:
        location: Name of the old tier.
        target: Name of the new tier.
        tokens: The sequence, packed.
        scope: What the request that computed them varied by.
        keep: Whether the old tier keeps what it has.
        refuse_pinned: Whether pinned chunks in the old tier refuse it although
            it keeps them, because they are to leave it later.
    """

    location: str
    target: str
    tokens: bytes
    scope: Scope = EMPTY_SCOPE
    keep: bool = False
    refuse_pinned: bool = False


class RecodeCommand(Command, frozen=True, kw_only=True, tag="recode"):
    """Encode the chunks of some tokens in another way where they are.

    ``num_tokens`` of the reply is how many tokens were encoded anew, and
    ``facts`` says in chunks and bytes what became of the rest, in a failure, too.

    Attributes:
        location: Name of the tier.
        serdes: Names of the serdes, in the order of encoding.
        undo: Whether what they have encoded is to be raw again; otherwise
            they are to encode what they have not.
        tokens: The sequence, packed; empty for all that the tier has.
        scope: What the request that computed them varied by.
    """

    location: str
    serdes: tuple[str, ...]
    undo: bool = False
    tokens: bytes = b""
    scope: Scope = EMPTY_SCOPE


class SettleCommand(Command, frozen=True, kw_only=True, tag="settle"):
    """Answer once open stores of these tokens are done and their events are sent.

    ``facts`` of the reply are the tokens, from the first on, that each
    location has by itself, and ``num_tokens`` those that all have together.
    """

    tokens: bytes
    scope: Scope = EMPTY_SCOPE


class HealthCommand(Command, frozen=True, kw_only=True, tag="health"):
    """Answer, with the number of unhealthy tiers in ``facts``."""


EngineMessage = Register | Held | Heartbeat | Events | Reply | Progress | Goodbye
ControllerMessage = (
    Welcome
    | Refused
    | Adopted
    | Identify
    | WantSnapshot
    | PinCommand
    | RenewCommand
    | PlanCommand
    | UnpinCommand
    | ClearCommand
    | MoveCommand
    | RecodeCommand
    | SettleCommand
    | HealthCommand
)


def to_wire(message: Message) -> dict[str, Any]:
    """Turn a message into a map of plain values; ``bytes`` stay bytes."""
    plain: dict[str, Any] = msgspec.to_builtins(message, builtin_types=(bytes,))
    return plain


def engine_message(plain: object) -> EngineMessage:
    """Read what an engine sent.

    Raises:
        MessageError: It is no message of this protocol.
    """
    message: EngineMessage = _convert(plain, EngineMessage)
    return message


def controller_message(plain: object) -> ControllerMessage:
    """Read what the controller sent.

    Raises:
        MessageError: It is no message of this protocol.
    """
    message: ControllerMessage = _convert(plain, ControllerMessage)
    return message


def _convert(plain: object, union: Any) -> Any:  # noqa: ANN401 - a union is no type object
    try:
        return msgspec.convert(plain, union, builtin_types=(bytes,))
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        message = f"not a message of protocol version {PROTOCOL_VERSION}: {error}"
        raise MessageError(message) from error
