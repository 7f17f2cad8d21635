"""Pieces of pins that are not cached yet and whose room is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lmcache_core.engine.chunks.piece import Piece
from lmcache_core.engine.chunks.residents import Residents
from lmcache_core.keys import TOKEN_BYTES, Key


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
        self._waiting: dict[Key, set[str]] = {}
        self._charged: dict[Key, int] = {}
        self._pieces: dict[Key, dict[bytes, Piece]] = {}
        self._named: dict[Key, Piece] = {}

    def new_bytes(self, pieces: Iterable[Piece]) -> int:
        """Bytes that reserving these pieces would add."""
        return sum(self._piece_bytes(piece) for piece in pieces if piece.key not in self._charged)

    def full_bytes(self, pieces: Iterable[Piece]) -> int:
        """Bytes that these pieces take, whoever waits for them."""
        return sum(self._piece_bytes(piece) for piece in pieces)

    def charged(self, piece: Piece) -> int:
        """Bytes that are kept for a piece."""
        return self._charged.get(piece.key, 0)

    def waits(self, key: Key, pin_id: str) -> bool:
        """Whether a pin waits for the piece of a key."""
        return pin_id in self._waiting.get(key, ())

    def awaits(self, key: Key) -> bool:
        """Whether any pin waits for the piece of a key."""
        return key in self._named

    def add(self, piece: Piece, pin_id: str) -> None:
        """Let a pin wait for a piece, and keep room for it where pins may take it."""
        waiting = self._waiting.setdefault(piece.key, set())
        if not waiting:
            self._pieces.setdefault(piece.parent, {})[piece.token_bytes] = piece
            self._named[piece.key] = piece
        waiting.add(pin_id)
        nbytes = self._piece_bytes(piece)
        if piece.key not in self._charged and self._residents.may_pin(nbytes):
            self._charged[piece.key] = nbytes
            self._residents.reserved_bytes += nbytes

    def drop(self, piece: Piece, pin_id: str) -> None:
        """End a pin's wait for a piece that it waits for."""
        waiting = self._waiting[piece.key]
        waiting.remove(pin_id)
        if waiting:
            return
        del self._waiting[piece.key], self._named[piece.key]
        siblings = self._pieces[piece.parent]
        del siblings[piece.token_bytes]
        if not siblings:
            del self._pieces[piece.parent]
        self._residents.reserved_bytes -= self._charged.pop(piece.key, 0)

    def held_by(self, pin_id: str, keys: Iterable[Key]) -> int:
        """Bytes that are kept for the pieces of these keys that a pin waits for."""
        if not self._charged:
            return 0
        return sum(self._charged.get(key, 0) for key in keys if self.waits(key, pin_id))

    def met_exactly(self, key: Key) -> list[tuple[Piece, frozenset[str]]]:
        """The piece of a key, with the pins that wait for it, or nothing."""
        piece = self._named.get(key)
        return [] if piece is None else [(piece, frozenset(self._waiting[key]))]

    def met_by(self, parent: Key, token_bytes: bytes) -> list[tuple[Piece, frozenset[str]]]:
        """Pieces that a chunk covers, each with the pins that wait for it."""
        siblings = self._pieces.get(parent)
        if siblings is None:
            return []
        if len(siblings) * TOKEN_BYTES < len(token_bytes):
            met = [
                piece for piece in siblings.values() if token_bytes.startswith(piece.token_bytes)
            ]
        else:
            # After a reset every pin waits, and most begin at one root.
            ends = range(TOKEN_BYTES, len(token_bytes) + 1, TOKEN_BYTES)
            found = (siblings.get(token_bytes[:end]) for end in ends)
            met = [piece for piece in found if piece is not None]
        return [(piece, frozenset(self._waiting[piece.key])) for piece in met]
