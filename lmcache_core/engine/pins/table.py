"""The pins of one engine: asked for, marked, lost, renewed, ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from lmcache_core.api.pins import OnMissing, PinCost, PinRenewal, PinReport, PinRequest, Renew
from lmcache_core.config import ANYWHERE
from lmcache_core.engine.chunks.entry import Entry
from lmcache_core.engine.chunks.piece import Piece
from lmcache_core.engine.pins.alarms import Alarms
from lmcache_core.engine.pins.anywhere import MARKS, Anywhere
from lmcache_core.engine.pins.keeping import PinKeeping
from lmcache_core.engine.pins.making import PinMaker
from lmcache_core.engine.pins.pin import Pin
from lmcache_core.engine.pins.place import PinnableTier, Place, TierPlace
from lmcache_core.engine.pins.quotas import Quotas
from lmcache_core.engine.pins.released import Released
from lmcache_core.errors import (
    CapacityError,
    ConflictError,
    NotCachedError,
    NotHeldError,
    UnknownNameError,
)
from lmcache_core.keys import Key, KeyChain, Scope

MAX_PINS = 1 << 16

PINS_AT_ONCE = 16
"""Pins looked at under one hold of the lock, so that many pins never stall a step."""


class PinTable:
    """Marks entries by pin id; never counts.

    Not thread-safe: the engine's lock is held around every call.

    Args:
        tiers: The tiers by name, from the top; the first is host memory.
        chain_of: Makes the key chain of some packed tokens in a scope, under
            the engine's present namespace.
        piece_bytes: Bytes a chunk of some packed tokens takes.
        share: The part of each tier that pins may take.
        owner_quota_bytes: Bound per owner, each pin charged in full; None
            for no bound.
        own_quotas: Bounds of owners that have one of their own.
        clock: Monotonic seconds.

    Attributes:
        keeping: Keeps pins with the durable tiers; None where there is none.
    """

    def __init__(
        self,
        tiers: Mapping[str, PinnableTier],
        *,
        chain_of: Callable[[bytes, Scope], KeyChain],
        piece_bytes: Callable[[Piece], int],
        share: float,
        owner_quota_bytes: int | None,
        own_quotas: Mapping[str, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tiers = tiers
        self._places: dict[str, Place] = {
            name: TierPlace(tier, piece_bytes) for name, tier in tiers.items()
        }
        memory = next(iter(self._places.values()))
        self._anywhere = self._places[ANYWHERE] = Anywhere(tiers, memory.reservations)
        self._maker = PinMaker(chain_of)
        self._quotas = Quotas(owner_quota_bytes, own_quotas or {})
        self._clock = clock
        self.keeping: PinKeeping | None = None
        self._pins: dict[str, Pin] = {}
        self._released = Released()
        for tier in tiers.values():
            residents = tier.residents
            residents.pin_limit_bytes = int(residents.capacity_bytes * share)
        self._changed: set[str] = set()
        self._renewing: set[str] = set()
        self._alarms = Alarms()

    def __len__(self) -> int:
        """Number of pins."""
        return len(self._pins)

    def pin(self, request: PinRequest) -> PinReport:
        """Pin, or change a pin to a version that is not lower.

        Returns:
            Its report, which is the caller's to tell: only what changes later
            is among :meth:`take_changed`.

        Raises:
            UnknownNameError: No tier of that name.
            ConflictError: A higher version is held or was released, or the
                location is not for the engine's model.
            NotCachedError: ``on_missing`` is ``fail`` and something is.
            CapacityError: It does not fit; pins never evict pins.
        """
        place = self._place(request.location)
        old = self._pins.get(request.pin_id)
        self._check_version(request, old)
        if old is not None and old.held_as(request):
            return self._renew(old, request)
        new = self._maker.make(request, place, self._due(request))
        if request.on_missing is OnMissing.FAIL and new.tokens_pinned < new.tokens_asked:
            raise NotCachedError(
                request.location,
                asked=new.tokens_asked,
                cached=new.tokens_pinned,
                why=place.away,
            )
        new.charge = self._quotas.check(new, old, place.need(new))
        self._mark(new)
        if old is not None:
            self._unmark(old, keep=new)
            self._take_out(old)
        self._put_in(new)
        self._keep(new)
        return self._report(new)

    def renew(self, renewal: PinRenewal) -> PinReport:
        """Change a pin that holds all it covers; return its report, as of :meth:`pin`.

        Raises:
            NotHeldError: It does not, or is at another version or in another place.
            ConflictError: It is held at a version that is not below the new one.
        """
        pin_id, since, location = renewal.pin_id, renewal.since, renewal.location
        pin = self._pins.get(pin_id)
        if pin is None or not pin.whole or not pin.is_at(since, location):
            raise NotHeldError(pin_id, location=location, version=since)
        request = renewal.of(pin.request)
        self._check_version(request, pin)
        return self._renew(pin, request)

    def holds(self, request: PinRequest) -> bool:
        """Whether a pin holds all that is asked for, so that asking renews it."""
        pin = self._pins.get(request.pin_id)
        return pin is not None and pin.held_as(request)

    def restore(
        self, request: PinRequest, *, left_seconds: float | None, wanted_tokens: int
    ) -> Pin | None:
        """Make a pin from its record; it waits for what it held before and is not there.

        Args:
            request: As it was asked for.
            left_seconds: How long it lives; None for no end.
            wanted_tokens: Length of the prefix that it held or waited for.

        Returns:
            The pin; None where the same or a higher version is known.

        Raises:
            UnknownNameError: No tier of that name.
            CapacityError: It does not fit.
        """
        place = self._place(request.location)
        old = self._pins.get(request.pin_id)
        known = old.request.version if old else self._released.version(request.pin_id)
        if known >= request.version:
            return None
        due = None if left_seconds is None else self._clock() + left_seconds
        pin = self._maker.remake(request, place, due, wanted_tokens)
        need = place.need(pin)
        if place is self._anywhere:
            # Where its bytes were when it was made says nothing of where there is room for them.
            need = need._replace(asked_bytes=0)
        pin.charge = self._quotas.check(pin, old, need)
        if old is not None:
            self._unmark(old, keep=None)
            self._take_out(old)
        self._mark(pin)
        self._put_in(pin)
        self._changed.add(request.pin_id)
        return pin

    def plan(self, request: PinRequest) -> PinCost:
        """What a pin would cost; nothing is changed.

        Raises:
            UnknownNameError: No tier of that name.
        """
        place = self._place(request.location)
        new = self._maker.make(request, place, self._due(request))
        return self._quotas.cost(new, self._pins.get(request.pin_id), place.need(new))

    def _renew(self, pin: Pin, request: PinRequest) -> PinReport:
        """Give a pin that holds all it covers another time, order of renewal or label."""
        # Its marks, room and charge are what they would be if it were made anew.
        pin.request = request
        pin.due = self._due(request)
        pin.awaits = request.on_missing is OnMissing.RESERVE
        self._note_renewing(request)
        self._alarms.set(pin)
        self._changed.discard(request.pin_id)
        self._keep(pin)
        return self._report(pin)

    def unpin(self, pin_id: str, version: int) -> int:
        """Release a pin; return the tokens that were pinned, 0 where it is not held.

        Raises:
            ConflictError: A higher version is held.
        """
        pin = self._pins.get(pin_id)
        if pin is not None and pin.request.version > version:
            message = f"pin {pin_id!r} is held at version {pin.request.version}, above {version}"
            raise ConflictError(message)
        self._released.note(pin_id, version)
        return 0 if pin is None else self._end(pin)

    @property
    def alarmed(self) -> bool:
        """Whether some pin's time is to be looked at."""
        return self._alarms.first(self._clock()) is not None

    def expire(self) -> list[str]:
        """Look at some pins that are to be looked at; return the ids of those that have ended."""
        now = self._clock()
        ended: list[str] = []
        for _ in range(PINS_AT_ONCE):
            pin_id = self._alarms.first(now)
            if pin_id is None:
                break
            pin = self._pins[pin_id]
            if pin.due != pin.alarm:
                self._alarms.set_anew(pin)  # It has been renewed since.
                continue
            self._end(pin)
            ended.append(pin_id)
        return ended

    def rebase(self) -> None:
        """The namespace has changed: nothing held is valid, all of it is awaited."""
        for pin in self._pins.values():
            self._unmark(pin, keep=None)
            self._maker.rebase(pin)
            self._changed.add(pin.request.pin_id)
        for pin in self._pins.values():
            self._mark(pin)

    def awaits(self, location: str, key: Key) -> bool:
        """Whether a pin in a tier waits for a chunk, which the tier is to be given."""
        return self._places[location].reservations.awaits(key)

    def note_admitted(self, location: str, entry: Entry) -> None:
        """A chunk has come that covers its own tokens and all that begin like them."""
        met = self._places[location].reservations.met_by(entry.parent, entry.token_bytes)
        if met:
            self._meet(location, entry.key, met)

    def note_stored(self, location: str, key: Key) -> None:
        """A chunk has come that is found by its own key and nothing shorter is."""
        met = self._places[location].reservations.met_exactly(key)
        if met:
            self._meet(location, key, met)
        if self._anywhere.pins:
            self._changed |= self._anywhere.note_came(location, key)

    def _meet(self, location: str, key: Key, met: Sequence[tuple[Piece, frozenset[str]]]) -> None:
        """Mark a chunk for the pins that wait for pieces it covers."""
        reservations = self._places[location].reservations
        residents = self._tiers[location].residents
        freed = sum(reservations.charged(piece) for piece, _ in met)
        if not residents.may_pin(residents.unmarked_size(key) - freed):
            # It is longer than what room was kept for; they go on waiting.
            return
        for piece, pin_ids in met:
            for pin_id in pin_ids:
                reservations.drop(piece, pin_id)
        for piece, pin_ids in met:
            for pin_id in pin_ids:
                self._cover(self._pins[pin_id], piece, key)

    def _cover(self, pin: Pin, piece: Piece, key: Key) -> None:
        self._places[pin.request.location].cover(pin, piece, key)
        self._changed.add(pin.request.pin_id)
        if self.keeping is not None and len(pin.covers) >= len(pin.pieces):
            self.keeping.covered(pin)

    def note_moved(self, location: str, old: Key, new: Key, marks: frozenset[str]) -> None:
        """A longer chunk has taken the place of a marked one."""
        residents = self._tiers[location].residents
        if self._anywhere.pins:
            self._changed |= self._anywhere.note_gone(old, marks)
            marks -= MARKS
        for pin_id in marks:
            pin = self._pins[pin_id]
            for number, cover in pin.covers.items():
                if cover.key == old:
                    pin.cover(number, new, cover.tokens)
            residents.mark(new, pin_id)
            self._changed.add(pin_id)

    def note_lost(self, location: str, key: Key, marks: frozenset[str]) -> None:
        """A marked chunk has gone: what it covered is reserved again."""
        if self._anywhere.pins:
            self._changed |= self._anywhere.note_gone(key, marks)
            marks -= MARKS
        for pin_id in marks:
            pin = self._pins[pin_id]
            for number in [n for n, cover in pin.covers.items() if cover.key == key]:
                pin.lose(number)
                self._places[location].reservations.add(pin.pieces[number], pin_id)
            self._changed.add(pin_id)

    def note_hit(self, key: Key) -> None:
        """The first chunk of a hit, which all its pins mark: renew those that ask for it."""
        if not self._renewing:
            return
        # What a pin holds below host memory is hit there, too: it is copied up and stays.
        for tier in self._tiers.values():
            for pin_id in tier.residents.marks_among(key, self._renewing):
                self._renew_for_hit(self._pins[pin_id])
        if self._anywhere.pins:
            for pin_id in self._anywhere.pins_among(key, self._renewing):
                self._renew_for_hit(self._pins[pin_id])

    def _renew_for_hit(self, pin: Pin) -> None:
        pin.due = self._due(pin.request)
        # The ledger keeps deadlines too and must not end it meanwhile.
        self._changed.add(pin.request.pin_id)
        if self.keeping is not None and pin.request.ttl_seconds is not None:
            self.keeping.renewed(pin, pin.request.ttl_seconds)

    def report(self, pin_id: str) -> PinReport | None:
        """The report of one pin, or None."""
        pin = self._pins.get(pin_id)
        return None if pin is None else self._report(pin)

    def ids(self) -> list[str]:
        """The ids of all pins."""
        return list(self._pins)

    def held(self, pin_ids: Iterable[str]) -> list[tuple[PinRequest, PinReport]]:
        """Pins as they were asked for, with the seconds that are left, and their reports."""
        now = self._clock()
        held = []
        for pin in (self._pins[pin_id] for pin_id in pin_ids if pin_id in self._pins):
            left = None if pin.due is None else max(0.0, pin.due - now)
            request = msgspec.structs.replace(pin.request, ttl_seconds=left)
            held.append((request, self._report(pin)))
        return held

    @property
    def has_changed(self) -> bool:
        """Whether any pin has changed since it was last told of."""
        return bool(self._changed)

    def take_changed(self) -> list[PinReport]:
        """Reports of pins that changed since they were last taken, some at a time."""
        count = min(PINS_AT_ONCE, len(self._changed))
        return [self._report(self._pins[self._changed.pop()]) for _ in range(count)]

    def note_resized(self, location: str, key: Key) -> None:
        """A chunk takes other bytes now, which the reports of its pins tell."""
        self._changed |= self._anywhere.pins_behind(key, self._tiers[location].residents.marks(key))

    def stuck(self, location: str, key: Key, target: str) -> set[str]:
        """The pins that would lose a chunk which leaves a tier for another."""
        marks = self._tiers[location].residents.marks(key)
        return self._anywhere.stuck(location, key, target).union(marks - MARKS)

    def let_leave(self, location: str, key: Key) -> bool:
        """Let pins of no one tier hold another copy; False where there is no room for that."""
        changed = self._anywhere.leave(location, key)
        self._changed |= changed or set()
        return changed is not None

    def note_untold(self, pin_ids: Iterable[str]) -> None:
        """What was taken of these pins has reached nobody."""
        self._changed.update(pin_id for pin_id in pin_ids if pin_id in self._pins)

    def keep_again(self, pin_id: str) -> None:
        """The record of a pin is lost: it counts once there is another."""
        pin = self._pins.get(pin_id)
        if pin is not None and self.keeping is not None:
            left = None if pin.due is None else max(0.0, pin.due - self._clock())
            self.keeping.made(pin, left)
            self._changed.add(pin_id)

    def note_joined(self, location: str, pin_ids: Iterable[str]) -> None:
        """A tier that was left out is there: those of some pins that are in it are told of anew."""
        for pin_id in pin_ids:
            pin = self._pins.get(pin_id)
            if pin is not None and pin.request.location == location:
                self._changed.add(pin_id)

    def _check_version(self, request: PinRequest, old: Pin | None) -> None:
        held = old.request.version if old else self._released.version(request.pin_id)
        if held > request.version or (old is None and held == request.version):
            message = (
                f"pin {request.pin_id!r} is at version {held}, not below {request.version}; "
                "ask again with a higher version"
            )
            raise ConflictError(message)
        if old is None and len(self._pins) >= MAX_PINS:
            raise CapacityError(
                "pins of this engine",
                asked_bytes=0,
                used_bytes=len(self._pins),
                limit_bytes=MAX_PINS,
                advice="release pins that are no longer needed",
            )

    def _put_in(self, pin: Pin) -> None:
        request = pin.request
        self._pins[request.pin_id] = pin
        self._quotas.charge(request.owner, pin.charge)
        self._note_renewing(request)
        self._alarms.set(pin)

    def _take_out(self, pin: Pin) -> None:
        request = pin.request
        del self._pins[request.pin_id]
        self._quotas.charge(request.owner, -pin.charge)
        self._renewing.discard(request.pin_id)
        self._alarms.drop(pin)
        self._changed.discard(request.pin_id)

    def _note_renewing(self, request: PinRequest) -> None:
        if request.renew is Renew.ON_HIT and request.ttl_seconds is not None:
            self._renewing.add(request.pin_id)
        else:
            self._renewing.discard(request.pin_id)

    def _due(self, request: PinRequest) -> float | None:
        return None if request.ttl_seconds is None else self._clock() + request.ttl_seconds

    def _place(self, location: str) -> Place:
        """The place of a name.

        Raises:
            UnknownNameError: There is none.
            ConflictError: It is not for the engine's model.
        """
        place = self._places.get(location)
        if place is None:
            raise UnknownNameError("location", location, self._places)
        if place is self._anywhere:
            self._anywhere.check()
        return place

    def _mark(self, pin: Pin) -> None:
        place = self._places[pin.request.location]
        place.mark(pin)
        if pin.awaits:
            for piece in pin.missing():
                place.reservations.add(piece, pin.request.pin_id)

    def _unmark(self, pin: Pin, keep: Pin | None) -> None:
        pin_id = pin.request.pin_id
        place = self._places[pin.request.location]
        beside = None if keep is None else self._places[keep.request.location]
        place.unmark(pin, keep if beside is place else None)
        reservations = place.reservations
        kept: set[Key] = set()
        if keep is not None and beside is not None and beside.reservations is reservations:
            kept = {piece.key for piece in keep.missing()} if keep.awaits else set()
        for number, key in enumerate(pin.pieces.keys):
            if key not in kept and reservations.waits(key, pin_id):
                reservations.drop(pin.pieces[number], pin_id)

    def _end(self, pin: Pin) -> int:
        tokens = pin.tokens_pinned if self._places[pin.request.location].holds else 0
        self._unmark(pin, keep=None)
        self._take_out(pin)
        if self.keeping is not None:
            self.keeping.ended(pin.request.pin_id)
        return tokens

    def _keep(self, pin: Pin) -> None:
        if self.keeping is not None:
            self.keeping.made(pin, pin.request.ttl_seconds)

    def _report(self, pin: Pin) -> PinReport:
        place, pin_id = self._places[pin.request.location], pin.request.pin_id
        return pin.report(
            self._clock(),
            holds=place.holds,
            away=place.away,
            pinned_bytes=place.pinned_bytes(pin),
            reserved_bytes=place.reservations.held_by(pin_id, pin.pieces.keys),
        )
