"""One pin as an engine holds it: pieces, what covers them, until when."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import NamedTuple

from lmcache_core.api.pins import OnMissing, PinReport, PinRequest, PinState
from lmcache_core.engine.chunks.piece import Cover, Piece, Pieces
from lmcache_core.keys import TOKEN_BYTES, Key


class Sum(NamedTuple):
    """Bytes of what covers a pin, as they were when its tier had resized so many keys."""

    nbytes: int
    resizes: int


class Pin:
    """A pin and what it marks.

    Args:
        request: See below.
        pieces: See below.
        due: See below.
        usable: Tells how many tokens of what some entries cover may be a
            hit; None for all of them.

    Attributes:
        request: As it was asked for.
        pieces: The sequence, cut at chunks.
        due: Monotonic time at which it ends, or None.
        alarm: When its time is looked at next, never after ``due``.
        charge: Bytes its owner is charged, as when it was asked for.
        lost: Numbers of the pieces that it held, has lost and waits for.
        awaits: Whether all pieces that are missing are marked when they come.
        settled: Whether it and what it holds are as durable as its tier is.
        summed: Bytes of what covers it; None since something else does.
    """

    __slots__ = (
        "_covered_tokens",
        "_covers",
        "_usable",
        "alarm",
        "awaits",
        "charge",
        "due",
        "lost",
        "pieces",
        "request",
        "settled",
        "summed",
    )

    def __init__(
        self,
        request: PinRequest,
        pieces: Pieces,
        due: float | None,
        usable: Callable[[Sequence[Cover]], int] | None,
    ) -> None:
        self._usable = usable
        self.request = request
        self.pieces = pieces
        self._covers: dict[int, Cover] = {}
        self._covered_tokens = 0
        self.due = due
        self.alarm: float | None = None
        self.charge = 0
        self.lost: set[int] = set()
        self.awaits = request.on_missing is OnMissing.RESERVE
        self.settled = True
        self.summed: Sum | None = None

    @property
    def covers(self) -> Mapping[int, Cover]:
        """By number of the piece, the entry that is marked for it."""
        return self._covers

    @property
    def tokens_asked(self) -> int:
        """Length of the pinned sequence."""
        return len(self.request.tokens) // TOKEN_BYTES

    @property
    def tokens_pinned(self) -> int:
        """Length of its prefix whose bytes stay and may be a hit."""
        # Of most pins all is covered, which is told without a look at each piece.
        tokens = self.tokens_asked
        if self._covered_tokens != tokens:
            tokens = self._prefix(self._covers)
        if self._usable is None or not tokens:
            return tokens
        size = self.pieces.tokens(0)
        return self._usable([self._covers[number] for number in range(-(-tokens // size))])

    @property
    def wanted(self) -> bytes:
        """Packed tokens of its prefix that is held or waited for."""
        if self.awaits:
            return self.pieces.token_bytes
        tokens = self._prefix(self._covers.keys() | self.lost)
        return self.pieces.token_bytes[: tokens * TOKEN_BYTES]

    def held_as(self, request: PinRequest) -> bool:
        """Whether all is held of the same tokens in the same place for the same owner."""
        mine = self.request
        return (
            mine.tokens == request.tokens
            and mine.scope == request.scope
            and mine.location == request.location
            and mine.owner == request.owner
            and self.whole
        )

    def is_at(self, version: int, location: str) -> bool:
        """Whether it has a version and is in a place."""
        return self.request.version == version and self.request.location == location

    @property
    def whole(self) -> bool:
        """Whether all is held that was asked for."""
        return self.tokens_pinned == self.tokens_asked

    def cover_all(self, covers: Iterable[Cover]) -> None:
        """These entries cover the pieces from the first on, and nothing else does."""
        self._covers = dict(enumerate(covers))
        self._covered_tokens = sum([tokens for _, tokens in self._covers.values()])
        self.summed = None

    def cover(self, number: int, key: Key, tokens: int | None = None) -> None:
        """An entry covers the piece of a number, as a whole unless ``tokens`` says less."""
        cover = Cover(key, self.pieces.tokens(number) if tokens is None else tokens)
        self._covered_tokens += cover.tokens - self._covered(number)
        self._covers[number] = cover
        self.lost.discard(number)
        self.summed = None

    def lose(self, number: int) -> None:
        """Nothing covers the piece of a number any more."""
        self._covered_tokens -= self._covers.pop(number).tokens
        self.lost.add(number)
        self.summed = None

    def missing(self) -> list[Piece]:
        """Pieces that no entry covers whole."""
        return [
            self.pieces[number]
            for number in range(len(self.pieces))
            if self._covered(number) < self.pieces.tokens(number)
        ]

    def _covered(self, number: int) -> int:
        cover = self._covers.get(number)
        return 0 if cover is None else cover.tokens

    def _prefix(self, numbers: Container[int]) -> int:
        """Tokens of the leading pieces of these numbers; one that is lost counts whole."""
        total = 0
        for number in range(len(self.pieces)):
            if number not in numbers:
                break
            whole = self.pieces.tokens(number)
            tokens = self._covered(number) if number in self._covers else whole
            total += tokens
            if tokens < whole:
                break
        return total

    def report(
        self, now: float, *, holds: bool, away: str, pinned_bytes: int, reserved_bytes: int
    ) -> PinReport:
        """Tell what is truly held.

        Args:
            now: Monotonic time.
            holds: Whether its tier keeps what is marked; what others may
                take away at any time is covered and not pinned.
            away: What to say where its tier is left out; else empty.
            pinned_bytes: Bytes marked for it.
            reserved_bytes: Bytes kept free for it.
        """
        covered, asked = self.tokens_pinned, self.tokens_asked
        pinned = covered if holds and self.settled else 0
        reason = ""
        if pinned == asked:
            state = PinState.ACTIVE
        elif covered and not holds:
            state = PinState.PARTIAL
            reason = f"best effort: {covered} tokens are there and the store may drop them"
        elif not self.settled:
            state = PinState.PENDING
            reason = f"{covered} tokens are marked, which are not known to be durable yet"
        elif self.lost:
            state, reason = PinState.DEGRADED, "part of it was lost and is reserved again"
        elif self.awaits and pinned == 0:
            state, reason = PinState.PENDING, away or "none of its tokens are cached yet"
        else:
            state, reason = PinState.PARTIAL, away or "the rest of its tokens is not cached"
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
