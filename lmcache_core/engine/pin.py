"""One pin as an engine holds it: pieces, what covers them, until when."""

from __future__ import annotations

from lmcache_core.api.pins import OnMissing, PinReport, PinRequest, PinState
from lmcache_core.engine.piece import Cover, Piece, Pieces
from lmcache_core.keys import TOKEN_BYTES


class Pin:
    """A pin and what it marks.

    Attributes:
        request: As it was asked for.
        pieces: The sequence, cut at chunks.
        covers: By number of the piece, the entry that is marked for it.
        due: Monotonic time at which it ends, or None.
        lost: Whether something it held has been lost.
        awaits: Whether pieces that are missing are marked when they come.
    """

    __slots__ = ("awaits", "covers", "due", "lost", "pieces", "request")

    def __init__(self, request: PinRequest, pieces: Pieces, due: float | None) -> None:
        self.request = request
        self.pieces = pieces
        self.covers: dict[int, Cover] = {}
        self.due = due
        self.lost = False
        self.awaits = request.on_missing is OnMissing.RESERVE

    @property
    def tokens_asked(self) -> int:
        """Length of the pinned sequence."""
        return len(self.request.tokens) // TOKEN_BYTES

    @property
    def tokens_pinned(self) -> int:
        """Length of its prefix whose bytes stay."""
        total = 0
        for number, piece in enumerate(self.pieces):
            cover = self.covers.get(number)
            if cover is None:
                break
            total += cover.tokens
            if cover.tokens * TOKEN_BYTES < len(piece.token_bytes):
                break
        return total

    def missing(self) -> list[Piece]:
        """Pieces that no entry covers whole."""
        return [
            piece
            for number, piece in enumerate(self.pieces)
            if number not in self.covers
            or self.covers[number].tokens * TOKEN_BYTES < len(piece.token_bytes)
        ]

    def report(self, now: float, *, pinned_bytes: int, reserved_bytes: int) -> PinReport:
        """Tell what is truly held."""
        pinned, asked = self.tokens_pinned, self.tokens_asked
        reason = ""
        if pinned == asked:
            state = PinState.ACTIVE
        elif self.lost:
            state, reason = PinState.DEGRADED, "part of it was lost and is reserved again"
        elif self.awaits and pinned == 0:
            state, reason = PinState.PENDING, "none of its tokens are cached yet"
        else:
            state, reason = PinState.PARTIAL, "the rest of its tokens is not cached"
        return PinReport(
            pin_id=self.request.pin_id,
            version=self.request.version,
            state=state,
            tokens_asked=asked,
            tokens_pinned=pinned,
            first_missing=None if pinned == asked else pinned,
            pinned_bytes=pinned_bytes,
            reserved_bytes=reserved_bytes,
            ttl_seconds=None if self.due is None else max(0.0, self.due - now),
            reason=reason,
        )
