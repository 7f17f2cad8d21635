"""The pins of one engine: asked for, marked, lost, renewed, ended."""

from __future__ import annotations

import heapq
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import msgspec

from lmcache_core.api.pins import OnMissing, PinReport, PinRequest, Renew
from lmcache_core.engine.piece import Cover, Piece, Pieces
from lmcache_core.engine.pin import Pin
from lmcache_core.engine.reservations import Reservations
from lmcache_core.engine.residents import Residents
from lmcache_core.errors import CapacityError, ConflictError, NotCachedError, UnknownNameError
from lmcache_core.keys import TOKEN_BYTES, Key, KeyChain, Scope

MAX_TOMBSTONES = 4096
"""Released pins whose version is remembered, so that a late command cannot revive one."""

MAX_PINS = 1 << 16


class PinnableTier(Protocol):
    """What pins need of a tier."""

    @property
    def name(self) -> str:
        """The tier's name."""

    @property
    def residents(self) -> Residents:
        """Its accounting and marks."""

    def covers(self, chain: KeyChain) -> list[Cover]:
        """The entries that cover a sequence from token 0 on, piece by piece."""

    def drop(self, keys: Iterable[Key]) -> int:
        """Drop what is held of some keys; return the tokens that went."""


class PinTable:
    """Marks entries by pin id; never counts.

    Not thread-safe: the engine's lock is held around every call.

    Args:
        tiers: The tiers by name.
        chain_of: Makes the key chain of some packed tokens in a scope, under
            the engine's present namespace.
        piece_bytes: Bytes a chunk of some packed tokens takes.
        share: The part of each tier that pins may take.
        owner_quota_bytes: Bound per owner, each pin charged in full; None
            for no bound.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        tiers: Mapping[str, PinnableTier],
        *,
        chain_of: Callable[[bytes, Scope], KeyChain],
        piece_bytes: Callable[[Piece], int],
        share: float,
        owner_quota_bytes: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tiers = tiers
        self._chain_of = chain_of
        self._piece_bytes = piece_bytes
        self._share = share
        self._quota = owner_quota_bytes
        self._clock = clock
        self._pins: dict[str, Pin] = {}
        self._tombstones: OrderedDict[str, int] = OrderedDict()
        self._reservations = {
            name: Reservations(tier.residents, piece_bytes) for name, tier in tiers.items()
        }
        self._changed: set[str] = set()
        self._deadlines: list[tuple[float, str]] = []

    def __len__(self) -> int:
        """Number of pins."""
        return len(self._pins)

    def pin(self, request: PinRequest) -> PinReport:
        """Pin, or change a pin to a version that is not lower.

        Raises:
            UnknownNameError: No tier of that name.
            ConflictError: A higher version is held or was released.
            NotCachedError: ``on_missing`` is ``fail`` and something is.
            CapacityError: It does not fit; pins never evict pins.
        """
        tier = self._tiers.get(request.location)
        if tier is None:
            raise UnknownNameError("location", request.location, self._tiers)
        old = self._pins.get(request.pin_id)
        self._check_version(request, old)
        chain = self._chain_of(request.tokens, request.scope)
        due = None if request.ttl_seconds is None else self._clock() + request.ttl_seconds
        new = Pin(request, Pieces(chain, request.tokens), due)
        new.covers = dict(enumerate(tier.covers(chain)))
        if request.on_missing is OnMissing.FAIL and new.tokens_pinned < new.tokens_asked:
            raise NotCachedError(request.location, asked=new.tokens_asked, cached=new.tokens_pinned)
        self._check_room(new, old, tier)
        self._mark(new)
        if old is not None:
            self._unmark(old, keep=new)
        self._pins[request.pin_id] = new
        if due is not None:
            heapq.heappush(self._deadlines, (due, request.pin_id))
        self._changed.add(request.pin_id)
        return self._report(new)

    def unpin(self, pin_id: str, version: int) -> int:
        """Release a pin; return the tokens that were pinned, 0 where it is not held.

        Raises:
            ConflictError: A higher version is held.
        """
        pin = self._pins.get(pin_id)
        if pin is not None and pin.request.version > version:
            message = f"pin {pin_id!r} is held at version {pin.request.version}, above {version}"
            raise ConflictError(message)
        self._tombstones[pin_id] = max(version, self._tombstones.get(pin_id, 0))
        if len(self._tombstones) > MAX_TOMBSTONES:
            self._tombstones.popitem(last=False)
        return 0 if pin is None else self._end(pin)

    def expire(self) -> list[str]:
        """End the pins whose time is up; return their ids."""
        now = self._clock()
        ended = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, pin_id = heapq.heappop(self._deadlines)
            pin = self._pins.get(pin_id)
            if pin is None or pin.due is None:
                continue
            if pin.due > now:
                # Renewed since; its new deadline takes the old one's place.
                heapq.heappush(self._deadlines, (pin.due, pin_id))
                continue
            self._end(pin)
            ended.append(pin_id)
        return ended

    def rebase(self) -> None:
        """The namespace has changed: nothing held is valid, all of it is awaited."""
        for pin in self._pins.values():
            # What was not to be waited for before is not waited for now.
            tokens = pin.tokens_asked if pin.awaits else pin.tokens_pinned
            self._unmark(pin, keep=None)
            token_bytes = pin.request.tokens[: tokens * TOKEN_BYTES]
            chain = self._chain_of(token_bytes, pin.request.scope)
            pin.pieces = Pieces(chain, token_bytes)
            pin.covers = {}
            pin.awaits = True
            pin.lost = False
            self._mark(pin)
            self._changed.add(pin.request.pin_id)

    def note_admitted(self, location: str, key: Key, parent: Key, token_bytes: bytes) -> None:
        """A chunk has come: mark it for the pins that wait for it."""
        for piece, pin_ids in self._reservations[location].met_by(parent, token_bytes):
            for pin_id in pin_ids:
                pin = self._pins[pin_id]
                number = pin.pieces.number_of(piece.key)
                self._reservations[location].drop(piece, pin_id)
                before = pin.covers.get(number)
                pin.covers[number] = Cover(key, len(piece.token_bytes) // TOKEN_BYTES)
                residents = self._tiers[location].residents
                residents.mark(key, pin_id)
                if before is not None and before.key != key:
                    residents.unmark(before.key, pin_id)
                self._changed.add(pin_id)

    def note_moved(self, location: str, old: Key, new: Key, marks: Iterable[str]) -> None:
        """A longer chunk has taken the place of a marked one."""
        residents = self._tiers[location].residents
        for pin_id in marks:
            pin = self._pins[pin_id]
            for number, cover in pin.covers.items():
                if cover.key == old:
                    pin.covers[number] = Cover(new, cover.tokens)
            residents.mark(new, pin_id)

    def note_lost(self, location: str, key: Key, marks: Iterable[str]) -> None:
        """A marked chunk has gone: what it covered is reserved again."""
        for pin_id in marks:
            pin = self._pins[pin_id]
            for number in [n for n, cover in pin.covers.items() if cover.key == key]:
                del pin.covers[number]
                self._reservations[location].add(pin.pieces[number], pin_id)
            pin.lost = True
            pin.awaits = True
            self._changed.add(pin_id)

    def note_hit(self, location: str, key: Key) -> None:
        """A marked chunk was used: renew the pins that ask for it."""
        now = self._clock()
        for pin_id in self._tiers[location].residents.marks(key):
            request = self._pins[pin_id].request
            if request.renew is Renew.ON_HIT and request.ttl_seconds is not None:
                self._pins[pin_id].due = now + request.ttl_seconds
                # The ledger keeps deadlines too and must not end it meanwhile.
                self._changed.add(pin_id)

    def report(self, pin_id: str) -> PinReport | None:
        """The report of one pin, or None."""
        pin = self._pins.get(pin_id)
        return None if pin is None else self._report(pin)

    def requests(self) -> list[PinRequest]:
        """All pins as they were asked for, with the seconds that are left."""
        now = self._clock()
        return [
            pin.request
            if pin.due is None
            else msgspec.structs.replace(pin.request, ttl_seconds=max(0.0, pin.due - now))
            for pin in self._pins.values()
        ]

    def reports(self) -> list[PinReport]:
        """The reports of all pins, in the order of :meth:`requests`."""
        return [self._report(pin) for pin in self._pins.values()]

    def take_changed(self) -> list[PinReport]:
        """Reports of the pins that changed since the last call."""
        changed, self._changed = self._changed, set()
        return [self._report(self._pins[pin_id]) for pin_id in changed if pin_id in self._pins]

    def _check_version(self, request: PinRequest, old: Pin | None) -> None:
        held = old.request.version if old else self._tombstones.get(request.pin_id, 0)
        newer = held > request.version if old else held >= request.version > 0
        if newer:
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

    def _check_room(self, new: Pin, old: Pin | None, tier: PinnableTier) -> None:
        residents = tier.residents
        reservations = self._reservations[tier.name]
        covers = {cover.key for cover in new.covers.values()}
        missing = new.missing() if new.awaits else []
        asked = sum(residents.size(key) for key in covers if not residents.marked(key))
        asked += reservations.new_bytes(missing)
        used = residents.pinned_bytes + residents.reserved_bytes
        limit = int(residents.capacity_bytes * self._share)
        if residents.capacity_bytes and asked and used + asked > limit:
            raise CapacityError(
                f"pins of tier {tier.name}",
                asked_bytes=asked,
                used_bytes=used,
                limit_bytes=limit,
                advice="release pins, raise pin_max_share, or give the tier more room",
            )
        if self._quota is None:
            return
        full = sum(residents.size(key) for key in covers)
        full += sum(self._piece_bytes(piece) for piece in missing)
        owner = new.request.owner
        charged = sum(
            self._charge(pin)
            for pin in self._pins.values()
            if pin.request.owner == owner and pin is not old
        )
        if full and charged + full > self._quota:
            raise CapacityError(
                f"pins of owner {owner}",
                asked_bytes=full,
                used_bytes=charged,
                limit_bytes=self._quota,
                advice="release pins of this owner or raise pin_owner_quota",
            )

    def _mark(self, pin: Pin) -> None:
        residents = self._tiers[pin.request.location].residents
        for cover in pin.covers.values():
            residents.mark(cover.key, pin.request.pin_id)
        if pin.awaits:
            for piece in pin.missing():
                self._reservations[pin.request.location].add(piece, pin.request.pin_id)

    def _unmark(self, pin: Pin, keep: Pin | None) -> None:
        location = pin.request.location
        same = keep is not None and keep.request.location == location
        kept_keys = {cover.key for cover in keep.covers.values()} if keep and same else set()
        kept_pieces = (
            {piece.key for piece in keep.missing()} if keep and same and keep.awaits else set()
        )
        residents = self._tiers[location].residents
        for cover in pin.covers.values():
            if cover.key not in kept_keys:
                residents.unmark(cover.key, pin.request.pin_id)
        for piece in pin.pieces:
            if piece.key not in kept_pieces:
                self._reservations[location].drop(piece, pin.request.pin_id)

    def _end(self, pin: Pin) -> int:
        tokens = pin.tokens_pinned
        self._unmark(pin, keep=None)
        del self._pins[pin.request.pin_id]
        self._changed.discard(pin.request.pin_id)
        return tokens

    def _charge(self, pin: Pin) -> int:
        return self._pinned_bytes(pin) + self._reserved_bytes(pin)

    def _pinned_bytes(self, pin: Pin) -> int:
        residents = self._tiers[pin.request.location].residents
        return sum(residents.size(key) for key in {c.key for c in pin.covers.values()})

    def _reserved_bytes(self, pin: Pin) -> int:
        reservations = self._reservations[pin.request.location]
        return reservations.held_by(pin.request.pin_id, pin.pieces)

    def _report(self, pin: Pin) -> PinReport:
        return pin.report(
            self._clock(),
            pinned_bytes=self._pinned_bytes(pin),
            reserved_bytes=self._reserved_bytes(pin),
        )
