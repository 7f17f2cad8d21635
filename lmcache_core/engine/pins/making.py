"""Pins over what is cached just now, which mark nothing yet."""

from __future__ import annotations

from collections.abc import Callable

from lmcache_core.api.pins import PinRequest
from lmcache_core.engine.chunks.piece import Pieces
from lmcache_core.engine.pins.pin import Pin
from lmcache_core.engine.pins.place import Place
from lmcache_core.keys import TOKEN_BYTES, KeyChain, Scope


class PinMaker:
    """Looks up what covers a pin, under the engine's present namespace.

    Args:
        chain_of: Makes the key chain of some packed tokens in a scope.
    """

    def __init__(self, chain_of: Callable[[bytes, Scope], KeyChain]) -> None:
        self._chain_of = chain_of

    def make(self, request: PinRequest, place: Place, due: float | None) -> Pin:
        """A pin as it is asked for."""
        pin = self._over(request, request.tokens, place, due)
        if pin.awaits:
            _cover_behind_gaps(pin, place)
        return pin

    def remake(
        self, request: PinRequest, place: Place, due: float | None, wanted_tokens: int
    ) -> Pin:
        """A pin as it was kept; it waits for what it held before and is not there.

        Args:
            request: As it was asked for.
            place: Where it is to be.
            due: Monotonic time at which it ends, or None.
            wanted_tokens: Length of the prefix that it held or waited for.
        """
        pin = self._over(request, request.tokens[: wanted_tokens * TOKEN_BYTES], place, due)
        pin.awaits = True
        _cover_behind_gaps(pin, place)
        if pin.covers:
            pin.lost = {piece.number for piece in pin.missing()}
        return pin

    def rebase(self, pin: Pin) -> None:
        """Let a pin that marks nothing wait for what it held, under another namespace."""
        # What was not to be waited for before is not waited for now.
        wanted = pin.wanted
        pin.pieces = Pieces(self._chain_of(wanted, pin.request.scope), wanted)
        pin.cover_all(())
        pin.awaits = True
        pin.lost.clear()

    def _over(
        self, request: PinRequest, token_bytes: bytes, place: Place, due: float | None
    ) -> Pin:
        chain = self._chain_of(token_bytes, request.scope)
        pin = Pin(request, Pieces(chain, token_bytes), due, place.usable)
        pin.cover_all(place.covers(chain))
        return pin


def _cover_behind_gaps(pin: Pin, place: Place) -> None:
    """Cover what is there behind a chunk that is not: nobody will tell of its coming."""
    for piece in pin.missing():
        cover = None if piece.number in pin.covers else place.best_cover(piece)
        if cover is not None and cover.tokens == pin.pieces.tokens(piece.number):
            pin.cover(piece.number, cover.key)
