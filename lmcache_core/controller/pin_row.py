"""A pin as the ledger keeps it."""

from __future__ import annotations

import hashlib
import math

import msgspec

from lmcache_core.api.pins import OnMissing, PinRenewal, PinReport, PinRequest, PinState, Renew
from lmcache_core.controller.ranks import means
from lmcache_core.keys import EMPTY_SCOPE, TOKEN_BYTES, Scope

PIN_OVERHEAD_BYTES = 1024
"""Id, location, digests, numbers and field names of a pin and of its report."""

TEXT_OVERHEAD_BYTES = 5


class Place(msgspec.Struct, frozen=True, order=True):
    """Where a pin's bytes are to stay.

    Attributes:
        instance_id: The engine.
        location: One of its tiers, or ``any`` for all of them together.
    """

    instance_id: str
    location: str


class NamespacePlace(msgspec.Struct, frozen=True, order=True):
    """Where a pin's bytes are to stay: in every instance that serves a model.

    Attributes:
        identity: Identity of the namespace, see ``namespace_identity``.
        location: One of its instances' tiers, or ``any``; who has none of that name is
            left out.
    """

    identity: bytes
    location: str


class PinContent(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator asks for; two pins of equal content are the same pin.

    Attributes:
        owner: Who asked.
        places: Where its bytes are to stay, one per engine, sorted.
        namespaces: The same for whoever serves a model, now or later, sorted.
        tokens: Token ids as little-endian uint32.
        scope: What the request that computed them varied by.
        ttl_seconds: How long it lives, or None for no end.
        renew: Whether a hit starts the time anew.
        on_missing: What to do about tokens that are not cached.
        labels: The operator's own notes.
    """

    owner: str
    places: tuple[Place, ...]
    tokens: bytes
    scope: Scope = EMPTY_SCOPE
    ttl_seconds: float | None = None
    renew: Renew = Renew.FIXED
    on_missing: OnMissing = OnMissing.PARTIAL
    labels: dict[str, str] = {}
    namespaces: tuple[NamespacePlace, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Length of the pinned sequence."""
        return len(self.tokens) // TOKEN_BYTES

    @property
    def nbytes(self) -> int:
        """What the pin takes in a message that names it, at most."""
        texts = [self.owner, self.scope.adapter or "", *self.labels, *self.labels.values()]
        texts += [text for pair in self.scope.tags.items() for text in pair]
        notes = sum(len(text.encode(errors="replace")) + TEXT_OVERHEAD_BYTES for text in texts)
        items = sum(len(item.identifier) + PIN_OVERHEAD_BYTES for item in self.scope.placeholders)
        return len(self.tokens) + notes + items + PIN_OVERHEAD_BYTES


def classic_pin_id(
    owner: str, place: Place, *, identity: bytes, scope: Scope, tokens: bytes
) -> str:
    """Name the pin of a classic request, so that repeating the request renews one pin."""
    digest = hashlib.sha256(b"lmcache:classic-pin:1\0" + identity + scope.digest())
    for part in (owner, place.instance_id, place.location):
        digest.update(hashlib.sha256(part.encode()).digest())
    digest.update(tokens)
    return f"pin-{digest.hexdigest()[:32]}"


class PlaceState(msgspec.Struct, kw_only=True):
    """What one engine is known to hold of a pin.

    Attributes:
        location: The tier, or ``any``.
        identity: Identity of the namespace the pin was made in.
        state: How much of it holds there.
        tokens_pinned: Length of the prefix whose bytes stay.
        covered: The most it has held under the pin's present version.
        pinned_bytes: Bytes marked for it.
        reserved_bytes: Bytes kept free for what is still to come.
        told: The version the engine has answered to, or 0.
        reason: Why it is less than was asked for.
        retry_at: Monotonic time before which it is not asked again.
        joined: Whether it is there for the namespace that the engine serves.
        away: Whether it does not count: the engine is gone, and need not return.
    """

    location: str
    identity: bytes
    state: PinState = PinState.PENDING
    tokens_pinned: int = 0
    covered: int = 0
    pinned_bytes: int = 0
    reserved_bytes: int = 0
    told: int = 0
    reason: str = "the engine has not answered yet"
    retry_at: float = 0.0
    joined: bool = False
    away: bool = False

    def take(self, report: PinReport, asked: int) -> None:
        """Take an engine's report; never says more than it."""
        self.told = report.version
        self.tokens_pinned = min(report.tokens_pinned, asked)
        self.pinned_bytes = report.pinned_bytes
        self.reserved_bytes = report.reserved_bytes
        self.state, self.reason = report.state, report.reason
        if self.tokens_pinned < self.covered and self.state is not PinState.PENDING:
            self.state = PinState.DEGRADED
            self.reason = self.reason or "part of it was lost and is reserved again"
        elif self.state is PinState.ACTIVE and self.tokens_pinned < asked:
            # A pin that was partial is sent to a restarted engine as what it held.
            self.state = PinState.PARTIAL
            self.reason = "the rest of its tokens was not cached when it was asked for"
        self.covered = max(self.covered, self.tokens_pinned)

    def lose(self, reason: str) -> None:
        """Nothing is known to hold there any more."""
        self.tokens_pinned = self.pinned_bytes = self.reserved_bytes = self.told = 0
        self.state, self.reason = PinState.PENDING, reason
        self.retry_at = 0.0


NOBODY_SERVES = "no live instance serves its namespace"

_WORST_FIRST = (PinState.DEGRADED, PinState.PENDING, PinState.PARTIAL)


class PinRow(msgspec.Struct, kw_only=True):
    """One pin.

    Attributes:
        pin_id: Its name.
        version: Raised by each change.
        content: What was asked for.
        expires_at: Unix time of its end, or None.
        created_at: Unix time.
        updated_at: Unix time of its last change of version.
        places: What is known of it, by engine.
        ended: ``expired`` or ``released``, or None while it lives.
        adopted: Whether it was learned from an engine, which knows only what
            is left of its time.
    """

    pin_id: str
    version: int
    content: PinContent
    expires_at: float | None
    created_at: float
    updated_at: float
    places: dict[str, PlaceState]
    ended: PinState | None = None
    adopted: bool = False

    def is_for(self, content: PinContent) -> bool:
        """Whether some content is what was asked for."""
        known = self.content
        if self.adopted:
            known = msgspec.structs.replace(known, ttl_seconds=content.ttl_seconds)
        return known == content

    def is_in(self, instance_id: str) -> bool:
        """Whether it has a place in an instance, or in one of its data-parallel ranks."""
        return any(means(instance_id, name) for name in self.present)

    @property
    def state(self) -> PinState:
        """The worst of its places, or how it ended."""
        if self.ended is not None:
            return self.ended
        states = {place.state for place in self.present.values()}
        if not states:
            return PinState.PENDING
        return next((state for state in _WORST_FIRST if state in states), PinState.ACTIVE)

    @property
    def present(self) -> dict[str, PlaceState]:
        """The places that count."""
        return {name: place for name, place in self.places.items() if not place.away}

    @property
    def tokens_pinned(self) -> int:
        """Length of the longest prefix that some engine holds."""
        return max((place.tokens_pinned for place in self.present.values()), default=0)

    @property
    def reason(self) -> str:
        """Why it is less than was asked for, by engine."""
        present = self.present
        if not present:
            return NOBODY_SERVES
        return "; ".join(f"{name}: {p.reason}" for name, p in sorted(present.items()) if p.reason)

    def request(self, instance_id: str, *, now: float) -> PinRequest:
        """The pin as an engine is first asked for it."""
        content = self.content
        left = None if self.expires_at is None else max(0.0, self.expires_at - now)
        if content.renew is Renew.ON_HIT:
            # The engine starts the time anew with what it was sent.
            left = content.ttl_seconds
        return PinRequest(
            pin_id=self.pin_id,
            version=self.version,
            location=self.places[instance_id].location,
            tokens=content.tokens,
            owner=content.owner,
            scope=content.scope,
            ttl_seconds=left,
            renew=content.renew,
            on_missing=content.on_missing,
            labels=content.labels,
        )

    def renewal(self, instance_id: str, old: PinRow, *, now: float) -> PinRenewal | None:
        """The pin as an engine is asked for it that holds all of an older version.

        Args:
            instance_id: The engine.
            old: That version; the engine may have lost it meanwhile.
            now: Unix time.

        Returns:
            None where the engine did not hold it whole, or something else is to be pinned.
        """
        place, before = self.places[instance_id], old.places.get(instance_id)
        mine, its = self.content, old.content
        if (
            before is None
            or before.told != old.version
            or before.state is not PinState.ACTIVE
            or (before.location, before.identity) != (place.location, place.identity)
            or (mine.tokens, mine.scope, mine.owner) != (its.tokens, its.scope, its.owner)
        ):
            return None
        request = self.request(instance_id, now=now)
        return PinRenewal(
            pin_id=self.pin_id,
            version=self.version,
            since=old.version,
            location=place.location,
            ttl_seconds=request.ttl_seconds,
            renew=request.renew,
            on_missing=request.on_missing,
            labels=request.labels,
        )

    def again(self, instance_id: str, *, now: float) -> PinRequest:
        """The pin as an engine is asked for it that has lost it, by a restart for example.

        What it held is reserved; what it never held is not charged for.
        """
        request = self.request(instance_id, now=now)
        covered = self.places[instance_id].covered
        if not covered:
            return request
        tokens = request.tokens
        if self.content.on_missing is OnMissing.PARTIAL:
            tokens = tokens[: covered * TOKEN_BYTES]
        return msgspec.structs.replace(request, tokens=tokens, on_missing=OnMissing.RESERVE)


def sane_ttl(seconds: float | None) -> float | None:
    """A time to live as an engine reports it; what is no number is no end."""
    return max(0.0, seconds) if seconds is not None and math.isfinite(seconds) else None
