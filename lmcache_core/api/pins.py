"""A pin as engine and controller speak of it."""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from lmcache_core.keys import EMPTY_SCOPE, Scope

PIN_ID_PATTERN = r"^[A-Za-z0-9._~-]{1,128}$"
"""What a pin may be called: fit for a path of a URL."""


class PinState(enum.Enum):
    """How much of a pin holds."""

    ACTIVE = "active"
    """Every token asked for is pinned."""
    PARTIAL = "partial"
    """The tokens that were there are pinned; the rest was not asked to be."""
    PENDING = "pending"
    """Nothing is known to hold yet."""
    DEGRADED = "degraded"
    """Something that was pinned was lost and is reserved again."""
    EXPIRED = "expired"
    RELEASED = "released"


class OnMissing(enum.Enum):
    """What to do about tokens that are not cached when a pin is asked for."""

    FAIL = "fail"
    PARTIAL = "partial"
    RESERVE = "reserve"


class Renew(enum.Enum):
    """What moves a pin's deadline."""

    FIXED = "fixed"
    ON_HIT = "on_hit"


class PinRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A pin on one instance, as the engine is asked for it and keeps it.

    Attributes:
        pin_id: The pin's name, unique in a ledger.
        version: Raised by each change; a lower one never beats a higher one.
        owner: Who asked, for quotas and visibility.
        location: Name of the tier whose bytes stay; ``any`` where the last
            copy stays in whichever tier has it.
        tokens: Token ids as little-endian uint32.
        scope: What the request that computed them varied by.
        ttl_seconds: Seconds left, or None for no end.
        renew: Whether a hit starts the time anew.
        on_missing: What to do about tokens that are not cached.
        labels: The operator's own notes.
    """

    pin_id: str
    version: int
    location: str
    tokens: bytes
    owner: str = "default"
    scope: Scope = EMPTY_SCOPE
    ttl_seconds: float | None = None
    renew: Renew = Renew.FIXED
    on_missing: OnMissing = OnMissing.PARTIAL
    labels: dict[str, str] = {}


class PinRenewal(msgspec.Struct, frozen=True, kw_only=True):
    """A pin that an engine holds whole, changed in anything but what is pinned, where and for whom.

    It is as short for a prompt of a million tokens as for one of ten.

    Attributes:
        pin_id: The pin's name.
        version: As it is to be.
        since: As the engine holds it.
        location: Where the engine holds it.
        ttl_seconds: Seconds left, or None for no end.
        renew: Whether a hit starts the time anew.
        on_missing: What to do about tokens that are not cached.
        labels: The operator's own notes.
    """

    pin_id: str
    version: int
    since: int
    location: str
    ttl_seconds: float | None = None
    renew: Renew = Renew.FIXED
    on_missing: OnMissing = OnMissing.PARTIAL
    labels: dict[str, str] = {}

    def of(self, held: PinRequest) -> PinRequest:
        """What is held, as it is to be."""
        return msgspec.structs.replace(
            held,
            version=self.version,
            ttl_seconds=self.ttl_seconds,
            renew=self.renew,
            on_missing=self.on_missing,
            labels=self.labels,
        )


class PinWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pin on its own prompt that a request asks for, as it is written there.

    Attributes:
        pin_id: The pin's name; by default one that repeating the request renews.
        ttl_s: Seconds it is to live; the longest that is allowed by default.
        on_missing: What to do about tokens that are not cached in the end.
    """

    pin_id: Annotated[str, Meta(pattern=PIN_ID_PATTERN)] | None = None
    ttl_s: Annotated[float, Meta(gt=0)] | None = None
    on_missing: OnMissing = OnMissing.PARTIAL


class PinPromise(msgspec.Struct, frozen=True, kw_only=True):
    """What a request is told of the pin that it has asked for.

    Attributes:
        pin_id: The pin's name, by which the controller answers for it.
        ttl_s: Seconds it will live, from when it is made.
    """

    pin_id: str
    ttl_s: float


class PinReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine truly holds of a pin; never more than is.

    Attributes:
        pin_id: The pin's name.
        version: Which version of the pin this reports on.
        state: How much of it holds.
        tokens_asked: Length of the pinned sequence.
        tokens_pinned: Length of its prefix whose bytes stay.
        first_missing: Index of the first token that is not pinned, or None.
        pinned_bytes: Bytes marked for it.
        reserved_bytes: Bytes kept free for what is still to come.
        ttl_seconds: Seconds left, or None for no end.
        reason: Why it is less than was asked for, or an empty string.
        local: Whether a request has asked for it and no ledger has
            acknowledged it yet.
    """

    pin_id: str
    version: int
    state: PinState
    tokens_asked: int
    tokens_pinned: int
    first_missing: int | None = None
    pinned_bytes: int = 0
    reserved_bytes: int = 0
    ttl_seconds: float | None = None
    reason: str = ""
    local: bool = False


class PinCost(msgspec.Struct, frozen=True, kw_only=True):
    """What a pin would take of one tier of an engine, and of its owner's quota.

    Where its location is ``any`` it is that of the tier which is short of room,
    or of all that it would take some of.

    Attributes:
        cached_tokens: Length of the prefix that is cached.
        asked_bytes: Bytes that it would mark or reserve anew.
        pinned_bytes: Bytes that pins take already.
        pin_limit_bytes: What pins may take, or None for no bound.
        charged_bytes: Bytes that its owner would be charged for it.
        owner_bytes: Bytes that its owner is charged for other pins.
        owner_limit_bytes: The owner's quota, or None for no bound.
    """

    cached_tokens: int
    asked_bytes: int
    pinned_bytes: int
    pin_limit_bytes: int | None
    charged_bytes: int
    owner_bytes: int
    owner_limit_bytes: int | None

    @property
    def fits_tier(self) -> bool:
        """Whether the tier has room for it."""
        if self.pin_limit_bytes is None or not self.asked_bytes:
            return True
        return self.pinned_bytes + self.asked_bytes <= self.pin_limit_bytes

    @property
    def fits_owner(self) -> bool:
        """Whether the owner's quota has room for it."""
        if self.owner_limit_bytes is None or not self.charged_bytes:
            return True
        return self.owner_bytes + self.charged_bytes <= self.owner_limit_bytes
