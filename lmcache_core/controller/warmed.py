"""What warming a pin has come to in one placement."""

from __future__ import annotations

import msgspec

from lmcache_core.api.pins import PinState


class Warmed(msgspec.Struct, kw_only=True):
    """A placement of a pin that is, or was, to be made active.

    Attributes:
        pin_id: The pin.
        instance_id: The engine, or None where no live one serves its namespace.
        location: The tier.
        state: How much of it holds there, by the engine's last report.
        num_tokens: Length of the prefix whose bytes stay there.
        tokens_asked: Length of the pinned sequence.
        computed: Whether a server has computed the sequence for it.
        done: Whether nothing more is done about it.
        reason: Why it is not active.
    """

    pin_id: str
    instance_id: str | None
    location: str
    state: PinState
    num_tokens: int
    tokens_asked: int
    computed: bool = False
    done: bool = False
    reason: str = ""
