"""All tiers of an engine as one location: of each pinned chunk the last copy stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lmcache_core.config import ANYWHERE
from lmcache_core.engine.chunks.piece import Cover, Piece, Pieces
from lmcache_core.engine.pins.pin import Pin
from lmcache_core.engine.pins.place import PinnableTier
from lmcache_core.engine.pins.quotas import Need
from lmcache_core.engine.pins.reservations import Reservations
from lmcache_core.errors import ConflictError
from lmcache_core.keys import Key, KeyChain, Parts, make_parts

WHOLE = "*any"
"""The mark of the copy that stays of a chunk; no pin is called so."""

BEGUN = "*any-begun"
"""The mark of a chunk in host memory whose beginning alone is pinned."""

MARKS = frozenset((WHOLE, BEGUN))


class Anywhere:
    """A place that has whatever some tier has.

    One copy of each chunk is marked, however many pins cover it: that in the
    lowest tier that has one, holds what is marked and has room for it in the
    share of pins. The mark goes down when a copy comes to a lower tier, to
    whichever copy there is when the marked one is lost, and along when that
    one is moved. Copies in stores that hold nothing do not count.

    A piece that only the beginning of a longer chunk covers is found in host
    memory alone, so that it is marked there, by a mark of its own.

    Not thread-safe: the engine's lock is held around every call.

    Args:
        tiers: The engine's tiers, from the top; the first is host memory.
        reservations: Those of host memory, where all that is computed comes first.

    Attributes:
        reservations: See above; other pins wait there, too.
        pins: The pins that are here, by id.
    """

    holds = True
    away = ""
    usable: Callable[[Sequence[Cover]], int] | None = None

    def __init__(self, tiers: Mapping[str, PinnableTier], reservations: Reservations) -> None:
        self.reservations = reservations
        self.pins: dict[str, Pin] = {}
        self._memory = next(iter(tiers.values()))
        self._tiers = {name: tiers[name] for name in reversed(tuple(tiers)) if tiers[name].holds}
        self._depths = {name: depth for depth, name in enumerate(tiers)}
        self._homes: Parts[Key, PinnableTier] = make_parts()
        self._whole: Parts[Key, set[str]] = make_parts()
        self._begun: Parts[Key, set[str]] = make_parts()

    def check(self) -> None:
        """Refuse what cannot be said of the engine's model.

        Raises:
            ConflictError: Copies of a chunk may have unlike pages.
        """
        if self._memory.usable is not None:
            message = (
                f"location {ANYWHERE!r} is not for a model with sliding windows: copies of a chunk "
                "in unlike tiers may have unlike pages there, so that one does not stand for "
                f"another; name one of {', '.join(self._tiers)}"
            )
            raise ConflictError(message)

    def covers(self, chain: KeyChain) -> list[Cover]:
        """What covers a sequence from token 0 on, piece by piece, in whichever tiers."""
        covers: list[Cover] = []
        pieces = Pieces(chain, chain.all_bytes())
        for piece in pieces:
            cover = self.best_cover(piece)
            if cover is None:
                break
            covers.append(cover)
            if cover.tokens < pieces.tokens(piece.number):
                break
        return covers

    def best_cover(self, piece: Piece) -> Cover | None:
        """The chunk of a piece in some tier, or what begins most like it in host memory."""
        covers = (tier.best_cover(piece) for tier in self._tiers.values())
        return next((cover for cover in covers if cover is not None), None)

    def need(self, pin: Pin) -> Need:
        """What a pin would take, of the tier that is short of it where there is one."""
        asked = dict.fromkeys(self._tiers, 0)
        full = 0
        for key, whole in self._in_order(pin):
            tier = self._homes[key[0]].get(key) if whole else None
            if tier is None:
                options = self._options(key, whole=whole)
                fitting = (one for one in options if _fits(one, key, asked[one.name]))
                tier = next(fitting, options[0])
                asked[tier.name] += tier.residents.unmarked_size(key)
            full += tier.residents.size(key)
        missing = pin.missing() if pin.awaits else []
        asked[self._memory.name] += self.reservations.new_bytes(missing)
        full += self.reservations.full_bytes(missing)
        tiers = [tier for name, tier in self._tiers.items() if asked[name]] or [self._memory]
        short = [tier for tier in tiers if not tier.residents.may_pin(asked[tier.name])]
        return _need(short[:1] or tiers, asked, full)

    def mark(self, pin: Pin) -> None:
        """Mark what covers a pin; what there is no room for it has lost."""
        self.pins[pin.request.pin_id] = pin
        marked = self._in_order(pin)
        unheld = {key for key, whole in marked if not self._hold(key, pin, whole=whole)}
        for number in [n for n, cover in pin.covers.items() if cover.key in unheld]:
            self._lose(pin, number)

    def unmark(self, pin: Pin, keep: Pin | None) -> None:
        """Take a pin's marks away, but for those that another version has, too."""
        kept = set() if keep is None else set(_marked(keep))
        for key, whole in _marked(pin):
            if (key, whole) not in kept:
                self._let_go(key, pin, whole=whole)
        if keep is None:
            del self.pins[pin.request.pin_id]

    def cover(self, pin: Pin, piece: Piece, key: Key) -> None:
        """Mark a chunk that has come for a piece that a pin has waited for."""
        if not self._hold(key, pin, whole=key == piece.key):
            return
        before = pin.covers.get(piece.number)
        pin.cover(piece.number, key)
        if before is not None and before.key != key:
            self._let_go(before.key, pin, whole=before.key == piece.key)

    def pinned_bytes(self, pin: Pin) -> int:
        """Bytes that are marked for a pin, wherever they are."""
        return sum(
            (self._homes[key[0]][key] if whole else self._memory).residents.size(key)
            for key, whole in _marked(pin)
        )

    def pins_behind(self, key: Key, marks: frozenset[str]) -> set[str]:
        """The pins that the marks of a chunk stand for."""
        pins = set(marks - MARKS)
        if WHOLE in marks:
            pins |= self._whole[key[0]][key]
        if BEGUN in marks:
            pins |= self._begun[key[0]][key]
        return pins

    def pins_among(self, key: Key, pin_ids: set[str]) -> set[str]:
        """Which of some pins hold a chunk, or its beginning."""
        none: set[str] = set()
        return (self._whole[key[0]].get(key, none) & pin_ids) | (
            self._begun[key[0]].get(key, none) & pin_ids
        )

    def note_came(self, location: str, key: Key) -> set[str]:
        """A chunk has come to a tier below host memory; return the pins that it has changed."""
        tier = self._tiers.get(location)
        if tier is None:
            return set()
        changed: set[str] = set()
        home = self._homes[key[0]].get(key)
        if home is not None and self._is_below(tier, home) and _fits(tier, key):
            changed |= self._carry(key, tier)
        for piece, waiting in self.reservations.met_exactly(key):
            for pin in [self.pins[pin_id] for pin_id in waiting if pin_id in self.pins]:
                if self._hold(key, pin, whole=True):
                    self.reservations.drop(piece, pin.request.pin_id)
                    self.cover(pin, piece, key)
                    changed.add(pin.request.pin_id)
        return changed

    def note_gone(self, key: Key, marks: frozenset[str]) -> set[str]:
        """A copy of a chunk has gone, and what marks it had; return the pins that held it."""
        pins: set[str] = set()
        if WHOLE in marks:
            del self._homes[key[0]][key]
            pins |= self._whole[key[0]].pop(key)
        if BEGUN in marks:
            # Who has waited for what took its place has let go of it.
            pins |= self._begun[key[0]].pop(key, set())
        for pin in [self.pins[pin_id] for pin_id in pins]:
            for number in [n for n, cover in pin.covers.items() if cover.key == key]:
                self._replace(pin, number)
        return pins

    def stuck(self, location: str, key: Key, target: str) -> set[str]:
        """The pins that would lose a chunk which leaves a tier for another."""
        stuck = set(self._begun[key[0]].get(key, ())) if location == self._memory.name else set()
        home = self._homes[key[0]].get(key)
        follows = target in self._tiers or len(self._options(key, whole=True)) > 1
        if home is not None and home.name == location and not follows:
            stuck |= self._whole[key[0]][key]
        return stuck

    def leave(self, location: str, key: Key) -> set[str] | None:
        """Let a chunk go from a tier, its mark to another copy; None where there is no room."""
        home = self._homes[key[0]].get(key)
        if home is None or home.name != location:
            return set()
        others = (one for one in self._options(key, whole=True) if one is not home)
        tier = next((one for one in others if _fits(one, key)), None)
        return None if tier is None else self._carry(key, tier)

    def _in_order(self, pin: Pin) -> list[tuple[Key, bool]]:
        """What covers a pin; what has the fewest copies comes first, as it has the least choice."""
        return sorted(_marked(pin), key=lambda one: len(self._options(one[0], whole=one[1])))

    def _options(self, key: Key, *, whole: bool) -> list[PinnableTier]:
        """The tiers in which a chunk may be marked, the lowest first."""
        if not whole:
            return [self._memory]
        return [tier for tier in self._tiers.values() if key in tier.residents]

    def _is_below(self, tier: PinnableTier, other: PinnableTier) -> bool:
        return self._depths[tier.name] > self._depths[other.name]

    def _settle(self, key: Key) -> bool:
        """Mark the copy of a chunk that is to stay; whether there is one with room."""
        options = self._options(key, whole=True)
        tier = next((one for one in options if _fits(one, key)), None)
        if tier is None:
            return False
        tier.residents.mark(key, WHOLE)
        self._homes[key[0]][key] = tier
        return True

    def _carry(self, key: Key, tier: PinnableTier) -> set[str]:
        """Put the mark of a chunk on another copy; return the pins behind it."""
        tier.residents.mark(key, WHOLE)
        self._homes[key[0]][key].residents.unmark(key, WHOLE)
        self._homes[key[0]][key] = tier
        return self._whole[key[0]][key]

    def _hold(self, key: Key, pin: Pin, *, whole: bool) -> bool:
        """Let a pin hold a chunk, or its beginning; False where there is no room."""
        sharing = (self._whole if whole else self._begun)[key[0]]
        if key not in sharing:
            if whole and not self._settle(key):
                return False
            if not whole:
                if key not in self._memory.residents or not _fits(self._memory, key):
                    return False
                self._memory.residents.mark(key, BEGUN)
            sharing[key] = set()
        sharing[key].add(pin.request.pin_id)
        return True

    def _let_go(self, key: Key, pin: Pin, *, whole: bool) -> None:
        sharing = (self._whole if whole else self._begun)[key[0]]
        pins = sharing.get(key)
        if pins is None:
            return  # It has gone.
        pins.discard(pin.request.pin_id)
        if pins:
            return
        del sharing[key]
        if whole:
            self._homes[key[0]].pop(key).residents.unmark(key, WHOLE)
        else:
            self._memory.residents.unmark(key, BEGUN)

    def _replace(self, pin: Pin, number: int) -> None:
        """Let a pin hold whatever else covers as much of a piece, or wait for it."""
        tokens = pin.covers[number].tokens
        cover = self.best_cover(pin.pieces[number])
        if (
            cover is not None
            and cover.tokens >= tokens
            and self._hold(cover.key, pin, whole=cover.key == pin.pieces.keys[number])
        ):
            pin.cover(number, cover.key, tokens)
        else:
            self._lose(pin, number)

    def _lose(self, pin: Pin, number: int) -> None:
        pin.lose(number)
        self.reservations.add(pin.pieces[number], pin.request.pin_id)


def _marked(pin: Pin) -> list[tuple[Key, bool]]:
    """The chunks that a pin marks, and whether as a whole."""
    keys = pin.pieces.keys
    return [(cover.key, cover.key == keys[number]) for number, cover in pin.covers.items()]


def _fits(tier: PinnableTier, key: Key, beside_bytes: int = 0) -> bool:
    """Whether a tier has room in its share for a mark on a chunk beside others."""
    nbytes = tier.residents.unmarked_size(key)
    return not nbytes or tier.residents.may_pin(beside_bytes + nbytes)


def _need(tiers: Sequence[PinnableTier], asked: Mapping[str, int], full_bytes: int) -> Need:
    """What is needed of some tiers together."""
    residents = [tier.residents for tier in tiers]
    bounded = all(one.capacity_bytes for one in residents)
    return Need(
        tier=", ".join(tier.name for tier in tiers),
        asked_bytes=sum(asked[tier.name] for tier in tiers),
        full_bytes=full_bytes,
        taken_bytes=sum(one.pinned_bytes + one.reserved_bytes for one in residents),
        limit_bytes=sum(one.pin_limit_bytes for one in residents) if bounded else None,
    )
