"""Pieces of pins that are not cached yet and whose room is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lmcache_core.engine.chunks.piece import Piece
from lmcache_core.engine.chunks.residents import Residents
from lmcache_core.keys import TOKEN_BYTES, Key, Parts, make_parts


class Awaited:
    """A piece that pins wait for.

    Attributes:
        piece: The piece.
        pin_ids: Who waits for it.
        kept_bytes: Bytes that are kept for it; None where there was no room.
    """

    __slots__ = ("kept_bytes", "piece", "pin_ids")

    def __init__(self, piece: Piece) -> None:
        self.piece = piece
        self.pin_ids: set[str] = set()
        self.kept_bytes: int | None = None


class Reservations:
    """Who waits for which chunk in one tier; each chunk's bytes count once.

    What pins lose is reserved again, as far as they may take so much: pins
    that shared one chunk may wait for pieces of it that would take more. The
    rest waits without room of its own.

    Args:
        residents: The tier's accounting; ``reserved_bytes`` is kept here.
        piece_bytes: Bytes that a piece of some tokens will take.
    """

    def __init__(self, residents: Residents, piece_bytes: Callable[[Piece], int]) -> None:
        self._residents = residents
        self._piece_bytes = piece_bytes
        self._awaited: Parts[Key, Awaited] = make_parts()
        self._siblings: Parts[Key, dict[bytes, Awaited]] = make_parts()

    def new_bytes(self, pieces: Iterable[Piece]) -> int:
        """Bytes that reserving these pieces would add."""
        return sum(self._piece_bytes(piece) for piece in pieces if not self._keeps(piece.key))

    def full_bytes(self, pieces: Iterable[Piece]) -> int:
        """Bytes that these pieces take, whoever waits for them."""
        return sum(self._piece_bytes(piece) for piece in pieces)

    def charged(self, piece: Piece) -> int:
        """Bytes that are kept for a piece."""
        awaited = self._get(piece.key)
        return 0 if awaited is None else awaited.kept_bytes or 0

    def waits(self, key: Key, pin_id: str) -> bool:
        """Whether a pin waits for the piece of a key."""
        awaited = self._get(key)
        return awaited is not None and pin_id in awaited.pin_ids

    def awaits(self, key: Key) -> bool:
        """Whether any pin waits for the piece of a key."""
        return key in self._awaited[key[0]]

    def add(self, piece: Piece, pin_id: str) -> None:
        """Let a pin wait for a piece, and keep room for it where pins may take it."""
        awaited = self._get(piece.key)
        if awaited is None:
            awaited = self._awaited[piece.key[0]][piece.key] = Awaited(piece)
            families = self._siblings[piece.parent[0]]
            families.setdefault(piece.parent, {})[piece.token_bytes] = awaited
        awaited.pin_ids.add(pin_id)
        nbytes = self._piece_bytes(piece)
        if awaited.kept_bytes is None and self._residents.may_pin(nbytes):
            awaited.kept_bytes = nbytes
            self._residents.reserved_bytes += nbytes

    def drop(self, piece: Piece, pin_id: str) -> None:
        """End a pin's wait for a piece that it waits for."""
        awaited = self._awaited[piece.key[0]][piece.key]
        awaited.pin_ids.remove(pin_id)
        if awaited.pin_ids:
            return
        del self._awaited[piece.key[0]][piece.key]
        families = self._siblings[piece.parent[0]]
        del families[piece.parent][piece.token_bytes]
        if not families[piece.parent]:
            del families[piece.parent]
        self._residents.reserved_bytes -= awaited.kept_bytes or 0

    def held_by(self, pin_id: str, keys: Iterable[Key]) -> int:
        """Bytes that are kept for the pieces of these keys that a pin waits for."""
        if not self._residents.reserved_bytes:
            return 0
        awaited = (self._get(key) for key in keys)
        return sum(one.kept_bytes or 0 for one in awaited if one and pin_id in one.pin_ids)

    def met_exactly(self, key: Key) -> list[tuple[Piece, frozenset[str]]]:
        """The piece of a key, with the pins that wait for it, or nothing."""
        awaited = self._get(key)
        return [] if awaited is None else [(awaited.piece, frozenset(awaited.pin_ids))]

    def met_by(self, parent: Key, token_bytes: bytes) -> list[tuple[Piece, frozenset[str]]]:
        """Pieces that a chunk covers, each with the pins that wait for it."""
        siblings = self._siblings[parent[0]].get(parent)
        if siblings is None:
            return []
        if len(siblings) * TOKEN_BYTES < len(token_bytes):
            met = [one for begun, one in siblings.items() if token_bytes.startswith(begun)]
        else:
            # After a reset every pin waits, and most begin at one root.
            ends = range(TOKEN_BYTES, len(token_bytes) + 1, TOKEN_BYTES)
            found = (siblings.get(token_bytes[:end]) for end in ends)
            met = [one for one in found if one is not None]
        return [(one.piece, frozenset(one.pin_ids)) for one in met]

    def _get(self, key: Key) -> Awaited | None:
        return self._awaited[key[0]].get(key)

    def _keeps(self, key: Key) -> bool:
        awaited = self._get(key)
        return awaited is not None and awaited.kept_bytes is not None
