"""A pin as it is shown."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
from msgspec import Meta

from lmcache_core.api.pins import OnMissing, PinState, Renew
from lmcache_core.controller.pin_row import PinRow


class PlaceView(msgspec.Struct, frozen=True, kw_only=True):
    """What one engine holds of a pin; never more than it has reported.

    Attributes:
        version: The version it has answered to, or 0.
        reason: Why it is less than was asked for.
    """

    instance_id: str
    location: str
    state: PinState
    num_tokens: int
    pinned_bytes: int
    reserved_bytes: int
    version: int
    reason: str


class NamespaceView(msgspec.Struct, frozen=True):
    """A namespace that a pin is for, whoever serves it.

    Attributes:
        namespace_identity: Its name, in hex.
    """

    namespace_identity: str
    location: str


class PinView(msgspec.Struct, frozen=True, kw_only=True):
    """A pin.

    Attributes:
        tokens_asked: Length of the pinned sequence.
        num_tokens: Length of the longest prefix of it that some engine holds.
        first_missing: Index of the first token that is not held, or None.
        expires_at: Unix time of its end, or None.
        expires_in_seconds: Seconds left, or None.
        cache_salt_digest: Digest of its salt, or None; the salt is not kept.
    """

    pin_id: str
    version: Annotated[int, Meta(description="Its ETag; raised by each change.")]
    owner: str
    state: PinState
    reason: str
    tokens_asked: int
    num_tokens: int
    first_missing: int | None
    placements: list[PlaceView]
    namespaces: list[NamespaceView]
    adapter: str | None
    cache_salt_digest: str | None
    tags: dict[str, str]
    renew: Renew
    on_missing: OnMissing
    labels: dict[str, str]
    ttl_s: float | None
    created_at: float
    updated_at: float
    expires_at: float | None
    expires_in_seconds: float | None


def view(row: PinRow) -> PinView:
    """Show a pin."""
    content = row.content
    asked, pinned = content.num_tokens, 0 if row.ended else row.tokens_pinned
    expires_in = None if row.expires_at is None else max(0.0, row.expires_at - time.time())
    return PinView(
        pin_id=row.pin_id,
        version=row.version,
        owner=content.owner,
        state=row.state,
        reason="" if row.ended else row.reason,
        tokens_asked=asked,
        num_tokens=pinned,
        first_missing=None if pinned == asked else pinned,
        placements=[
            PlaceView(
                instance_id=name,
                location=place.location,
                state=row.ended or place.state,
                num_tokens=0 if row.ended else place.tokens_pinned,
                pinned_bytes=0 if row.ended else place.pinned_bytes,
                reserved_bytes=0 if row.ended else place.reserved_bytes,
                version=place.told,
                reason="" if row.ended else place.reason,
            )
            for name, place in sorted(row.present.items())
        ],
        namespaces=[
            NamespaceView(wanted.identity.hex(), wanted.location) for wanted in content.namespaces
        ],
        adapter=content.scope.adapter,
        cache_salt_digest=content.scope.salt,
        tags=content.scope.tags,
        renew=content.renew,
        on_missing=content.on_missing,
        labels=content.labels,
        ttl_s=content.ttl_seconds,
        created_at=row.created_at,
        updated_at=row.updated_at,
        expires_at=row.expires_at,
        expires_in_seconds=expires_in,
    )
