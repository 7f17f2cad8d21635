"""What is marked for a pin, seen from the tiers."""

from __future__ import annotations

from lmcache_core.config import ANYWHERE
from lmcache_core.engine.pins.anywhere import BEGUN, WHOLE
from lmcache_core.engine.pins.pin import Pin
from lmcache_core.engine.pins.place import PinnableTier
from lmcache_core.engine.tiers.stack import TierStack


def marking(tiers: TierStack, pin: Pin, number: int) -> list[PinnableTier]:
    """The tiers whose copy of what covers a piece is marked for a pin."""
    key, mark = pin.covers[number].key, pin.request.pin_id
    if pin.request.location == ANYWHERE:
        mark = WHOLE if key == pin.pieces.keys[number] else BEGUN
    named = [tiers.tier(location) for location in tiers.locations]
    return [tier for tier in named if mark in tier.residents.marks(key)]


def most_pinned(tiers: TierStack, pin: Pin) -> int:
    """Tokens from the first on that are there for a pin."""
    request = pin.request
    if request.location != ANYWHERE:
        return tiers.covered(request.tokens, request.scope)[request.location]
    tokens = 0
    with tiers.lock:
        for piece in pin.pieces:
            covers = [tiers.tier(name).best_cover(piece) for name in tiers.locations]
            most = max(cover.tokens if cover else 0 for cover in covers)
            tokens += most
            if most < pin.pieces.tokens(piece.number):
                break
    return tokens


def marks_are_pins(tiers: TierStack) -> None:
    """See that each mark stands for pins that there are."""
    pins = tiers.pins
    with tiers.lock:
        for location in tiers.locations:
            residents = tiers.tier(location).residents
            for key in residents:
                behind = pins._anywhere.pins_behind(key, residents.marks(key))
                assert bool(behind) == residents.marked(key)
                assert behind <= set(pins.ids())
