"""What the host hands to a backend when it makes one."""

from __future__ import annotations

import msgspec


class BackendContext(msgspec.Struct, frozen=True, kw_only=True):
    """The place a backend is used in.

    Attributes:
        instance_id: Id of the engine that owns the tier.
        tier: The tier's name, which is what the wire calls a location.
    """

    instance_id: str
    tier: str
