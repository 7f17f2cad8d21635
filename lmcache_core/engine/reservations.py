"""Pieces of pins that are not cached yet and whose room is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lmcache_core.engine.piece import Piece
from lmcache_core.engine.residents import Residents
from lmcache_core.keys import Key


class Reservations:
    """Who waits for which chunk in one tier; each chunk's bytes count once.

    Args:
        residents: The tier's accounting; ``reserved_bytes`` is kept here.
        piece_bytes: Bytes that a piece of some tokens will take.
    """

    def __init__(self, residents: Residents, piece_bytes: Callable[[Piece], int]) -> None:
        self._residents = residents
        self._piece_bytes = piece_bytes
        self._waiting: dict[Key, set[str]] = {}
        self._pieces: dict[Key, dict[Key, Piece]] = {}

    def new_bytes(self, pieces: Iterable[Piece]) -> int:
        """Bytes that reserving these pieces would add."""
        return sum(self._piece_bytes(piece) for piece in pieces if piece.key not in self._waiting)

    def add(self, piece: Piece, pin_id: str) -> None:
        """Let a pin wait for a piece."""
        waiting = self._waiting.get(piece.key)
        if waiting is not None:
            waiting.add(pin_id)
            return
        self._waiting[piece.key] = {pin_id}
        self._pieces.setdefault(piece.parent, {})[piece.key] = piece
        self._residents.reserved_bytes += self._piece_bytes(piece)

    def drop(self, piece: Piece, pin_id: str) -> None:
        """End a pin's wait for a piece; nothing happens where it does not wait."""
        waiting = self._waiting.get(piece.key)
        if waiting is None:
            return
        waiting.discard(pin_id)
        if waiting:
            return
        del self._waiting[piece.key]
        siblings = self._pieces[piece.parent]
        del siblings[piece.key]
        if not siblings:
            del self._pieces[piece.parent]
        self._residents.reserved_bytes -= self._piece_bytes(piece)

    def held_by(self, pin_id: str, pieces: Iterable[Piece]) -> int:
        """Bytes of the pieces that a pin waits for."""
        return sum(
            self._piece_bytes(piece)
            for piece in pieces
            if pin_id in self._waiting.get(piece.key, ())
        )

    def met_by(self, parent: Key, token_bytes: bytes) -> list[tuple[Piece, frozenset[str]]]:
        """Pieces that a chunk covers, each with the pins that wait for it."""
        siblings = self._pieces.get(parent)
        if not siblings:
            return []
        return [
            (piece, frozenset(self._waiting[piece.key]))
            for piece in siblings.values()
            if token_bytes.startswith(piece.token_bytes)
        ]
