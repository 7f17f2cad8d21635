"""Where pins mark: what a pin needs of its location, and a tier as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from lmcache_core.engine.chunks.piece import Cover, Piece
from lmcache_core.engine.chunks.residents import Residents
from lmcache_core.engine.pins.pin import Pin, Sum
from lmcache_core.engine.pins.quotas import Need
from lmcache_core.engine.pins.reservations import Reservations
from lmcache_core.keys import Key, KeyChain


class PinnableTier(Protocol):
    """What pins need of a tier."""

    @property
    def name(self) -> str:
        """The tier's name."""

    @property
    def residents(self) -> Residents:
        """Its accounting and marks."""

    @property
    def holds(self) -> bool:
        """Whether what is marked stays."""

    @property
    def away(self) -> str:
        """Why its store is left out; empty where it is not."""

    def covers(self, chain: KeyChain) -> list[Cover]:
        """The entries that cover a sequence from token 0 on, piece by piece."""

    def best_cover(self, piece: Piece) -> Cover | None:
        """The entry that covers most of a piece from its first token on, or None."""

    @property
    def usable(self) -> Callable[[Sequence[Cover]], int] | None:
        """Tells how many tokens of what some entries cover may be a hit; None for all."""

    def drop(self, keys: Iterable[Key]) -> int:
        """Drop what is held of some keys; return the tokens that went."""


class Place(Protocol):
    """What the table of pins needs of a location."""

    @property
    def reservations(self) -> Reservations:
        """Who waits for which chunk there."""

    @property
    def holds(self) -> bool:
        """Whether what is marked there stays."""

    @property
    def away(self) -> str:
        """What to say of a pin whose location is left out; empty where it is not."""

    @property
    def usable(self) -> Callable[[Sequence[Cover]], int] | None:
        """As of a tier."""

    def covers(self, chain: KeyChain) -> list[Cover]:
        """As of a tier."""

    def best_cover(self, piece: Piece) -> Cover | None:
        """As of a tier."""

    def need(self, pin: Pin) -> Need:
        """What a pin would take there that marks nothing yet."""

    def mark(self, pin: Pin) -> None:
        """Mark what covers a pin."""

    def unmark(self, pin: Pin, keep: Pin | None) -> None:
        """Take a pin's marks away, but for those that another version has there, too."""

    def cover(self, pin: Pin, piece: Piece, key: Key) -> None:
        """Mark an entry that has come for a piece that a pin has waited for."""

    def pinned_bytes(self, pin: Pin) -> int:
        """Bytes that are marked for a pin."""


class TierPlace:
    """A tier, whose entries carry the ids of the pins that mark them.

    Args:
        tier: The tier.
        piece_bytes: Bytes that a chunk of some packed tokens takes.

    Attributes:
        reservations: Who waits for which chunk there.
        holds: As of the tier, as all that follows.
        usable: See :class:`PinnableTier`.
        covers: See :class:`PinnableTier`.
        best_cover: See :class:`PinnableTier`.
    """

    def __init__(self, tier: PinnableTier, piece_bytes: Callable[[Piece], int]) -> None:
        self.reservations = Reservations(tier.residents, piece_bytes)
        self.holds = tier.holds
        self.usable = tier.usable
        self.covers = tier.covers
        self.best_cover = tier.best_cover
        self._name = tier.name
        self._tier = tier
        self._residents = tier.residents

    @property
    def away(self) -> str:
        """See :class:`Place`."""
        # What its store has said may name hosts, which who pins need not know.
        if not self._tier.away:
            return ""
        return f"{self._name} is not in use, because its store could not be opened"

    def need(self, pin: Pin) -> Need:
        """See :class:`Place`."""
        residents, reservations = self._residents, self.reservations
        keys = {cover.key for cover in pin.covers.values()}
        missing = pin.missing() if pin.awaits else []
        asked = sum(residents.unmarked_size(key) for key in keys)
        full = sum(residents.size(key) for key in keys)
        return Need(
            tier=self._name,
            asked_bytes=asked + reservations.new_bytes(missing),
            full_bytes=full + reservations.full_bytes(missing),
            taken_bytes=residents.pinned_bytes + residents.reserved_bytes,
            limit_bytes=residents.pin_limit_bytes if residents.capacity_bytes else None,
        )

    def mark(self, pin: Pin) -> None:
        """See :class:`Place`."""
        for cover in pin.covers.values():
            self._residents.mark(cover.key, pin.request.pin_id)

    def unmark(self, pin: Pin, keep: Pin | None) -> None:
        """See :class:`Place`."""
        kept = set() if keep is None else {cover.key for cover in keep.covers.values()}
        for cover in pin.covers.values():
            if cover.key not in kept:
                self._residents.unmark(cover.key, pin.request.pin_id)

    def cover(self, pin: Pin, piece: Piece, key: Key) -> None:
        """See :class:`Place`."""
        before = pin.covers.get(piece.number)
        pin.cover(piece.number, key)
        self._residents.mark(key, pin.request.pin_id)
        if before is not None and before.key != key:
            self._residents.unmark(before.key, pin.request.pin_id)

    def pinned_bytes(self, pin: Pin) -> int:
        """See :class:`Place`."""
        summed = pin.summed
        if summed is None or summed.resizes != self._residents.resizes:
            keys = {key for key, _ in pin.covers.values()}
            nbytes = sum(map(self._residents.size, keys))
            summed = pin.summed = Sum(nbytes, self._residents.resizes)
        return summed.nbytes
