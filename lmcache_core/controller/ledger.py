"""The pin ledger: what was asked for, and what engines hold of it.

It lives in memory; the journal takes what must outlive the process to a file.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Mapping

import msgspec

from lmcache_core.api.deadline import Deadline
from lmcache_core.api.pins import PinReport, PinRequest, PinState, Renew
from lmcache_core.controller.ends import EXPIRED_KEPT_SECONDS, Ends, due_at, is_up, look_at
from lmcache_core.controller.failures import LedgerFullError
from lmcache_core.controller.journal import Journal
from lmcache_core.controller.ledger_clock import LedgerClock
from lmcache_core.controller.pin_index import PinIndex
from lmcache_core.controller.pin_record import (
    META,
    META_KEY,
    PINS,
    STANDINGS,
    LedgerMeta,
    PinRecord,
    Standing,
    row_of,
)
from lmcache_core.controller.pin_row import (
    NamespacePlace,
    PinContent,
    PinRow,
    Place,
    PlaceState,
    sane_ttl,
)
from lmcache_core.controller.tombstones import Tombstones
from lmcache_core.log import get_logger

log = get_logger(__name__)

MAX_PINS = 1 << 16
MAX_BYTES = 256 << 20
"""Bound of all pins, which are in memory: five hundred of 128 thousand tokens."""

MAX_AWAY = 256
"""Instances of a namespace that are remembered of a pin after they went."""


class Ledger:
    """Pins by id.

    A version is the time of the change in milliseconds, or one more than the
    version before it, so that a controller which has lost its ledger still
    goes above what engines remember.

    A deadline is kept as Unix time and means the seconds that have passed: a
    clock that is set moves all deadlines with it.

    Args:
        journal: Where it is kept; what it kept is taken up.
        clock: Unix time.
        max_pins: Pins kept, those that have expired lately included.
        max_bytes: Bound of all their content.

    Attributes:
        ledger_id: Names the ledger to engines.
        is_new: Whether it began with this controller, so that what engines
            hold can be in no ledger but one that is lost.
        tombstones: Releases that engines have not acknowledged yet.
    """

    def __init__(
        self,
        journal: Journal | None = None,
        clock: LedgerClock | None = None,
        *,
        max_pins: int = MAX_PINS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._journal = journal or Journal()
        self._clock = clock or LedgerClock()
        self.ledger_id = uuid.uuid4().hex
        self.is_new = True
        self.tombstones = Tombstones(self._journal)
        self._max_pins = max_pins
        self._max_bytes = max_bytes
        self._rows = PinIndex()
        self._ends = Ends()
        # Engines remember what was released; a clock that is set back must
        # not bring a version that they have seen.
        self._highest = 0
        self._take_up()

    def __len__(self) -> int:
        """Number of pins, those that have expired lately included."""
        return len(self._rows)

    def get(self, pin_id: str) -> PinRow | None:
        """A pin, or None."""
        return self._rows.get(pin_id)

    def rows(self, after: str = "") -> Iterator[PinRow]:
        """Pins in the order of their ids, from the one after ``after`` on."""
        return self._rows.after(after)

    async def synced(self, deadline: Deadline) -> None:
        """Wait until a crash would lose nothing of what the ledger says now.

        Raises:
            LedgerFullError: The disk is full.
            LedgerUnavailableError: It cannot be written.
            DeadlineExceededError: It takes longer.
        """
        await self._journal.synced(deadline)

    def now(self) -> float:
        """Unix time, as deadlines are counted in."""
        jump = self._clock.jump()
        if jump:
            log.warning("ledger.clock_set", seconds=round(jump, 3))
            self._shift_deadlines(jump)
        return self._clock.wall()

    def put(
        self,
        pin_id: str,
        content: PinContent,
        places: Mapping[str, PlaceState],
        *,
        keep_end: bool = False,
    ) -> PinRow:
        """Write a pin's next version, as pending.

        Args:
            pin_id: Its name.
            content: What is asked for.
            places: By engine, a place that nothing is known of yet.
            keep_end: Whether it ends when it would have, not ``ttl_seconds`` from now.

        Raises:
            LedgerFullError: There is no room.
        """
        now = self.now()
        old = self._rows.get(pin_id)
        ends = None if content.ttl_seconds is None else now + content.ttl_seconds
        row = PinRow(
            pin_id=pin_id,
            version=self._next_version(pin_id, now),
            content=content,
            expires_at=old.expires_at if keep_end and old is not None else ends,
            created_at=now if old is None or old.ended else old.created_at,
            updated_at=now,
            places=dict(places),
        )
        self._write(row)
        return row

    def restore(self, old: PinRow) -> PinRow:
        """Write what a pin was before a change that was refused, as its next version."""
        now = self.now()
        row = msgspec.structs.replace(
            old,
            version=self._next_version(old.pin_id, now),
            updated_at=now,
            places={name: msgspec.structs.replace(p, told=0) for name, p in old.places.items()},
        )
        self._write(row)
        return row

    def release(self, row: PinRow) -> PinRow:
        """End a pin; each of its engines owes an acknowledgement."""
        now = self.now()
        version = self._next_version(row.pin_id, now)
        self._drop(row)
        for instance_id in row.places:
            self.tombstones.bury(row.pin_id, instance_id, version)
        row.version, row.updated_at, row.ended = version, now, PinState.RELEASED
        return row

    def take(self, instance_id: str, report: PinReport) -> None:
        """Take an engine's report on the present version of a pin; others are passed over."""
        now = self.now()
        row = self._rows.get(report.pin_id)
        place = row.places.get(instance_id) if row else None
        if row is None or place is None or row.ended or report.version != row.version:
            return
        kept = place.covered, row.expires_at
        place.take(report, row.content.num_tokens)
        self._rows.settle(instance_id, row.pin_id)
        if row.content.renew is Renew.ON_HIT and (left := sane_ttl(report.ttl_seconds)) is not None:
            row.expires_at = max(row.expires_at or 0.0, now + left)
        if kept != (place.covered, row.expires_at):
            self._journal.note(STANDINGS, row.pin_id, lazily=True)

    def adopt(
        self, instance_id: str, identity: bytes, request: PinRequest, report: PinReport
    ) -> PinRow:
        """Take in a pin that an engine holds and the ledger does not know.

        Raises:
            LedgerFullError: There is no room.
        """
        now = self.now()
        row = self._rows.get(request.pin_id)
        ttl = sane_ttl(request.ttl_seconds)
        places = dict(row.places) if row and row.version == request.version else {}
        places[instance_id] = PlaceState(location=request.location, identity=identity)
        content = PinContent(
            owner=request.owner,
            places=tuple(sorted(Place(name, p.location) for name, p in places.items())),
            tokens=request.tokens,
            scope=request.scope,
            ttl_seconds=ttl,
            renew=request.renew,
            on_missing=request.on_missing,
            labels=request.labels,
        )
        row = PinRow(
            pin_id=request.pin_id,
            version=request.version,
            content=content,
            expires_at=None if ttl is None else now + ttl,
            created_at=now,
            updated_at=now,
            places=places,
            adopted=True,
        )
        self._write(row)
        self.take(instance_id, report)
        return row

    def join(self, instance_id: str, identity: bytes, locations: Collection[str]) -> None:
        """An engine serves a namespace: its pins are to be held there, too."""
        for row in self._rows.of_namespace(identity):
            if row.ended:
                continue
            for wanted in row.content.namespaces:
                if wanted.identity != identity or wanted.location not in locations:
                    continue
                place = row.places.get(instance_id)
                if place is None:
                    self._add_place(row, instance_id, wanted)
                elif place.joined:
                    place.away = False
                    self._rows.unsettle(instance_id, row.pin_id)

    def leave(self, instance_id: str) -> None:
        """An engine is gone: where it was one of several of a namespace, it does not count."""
        for row in self.at(instance_id):
            place = row.places[instance_id]
            place.away = place.joined

    def lose(self, instance_id: str, reason: str) -> None:
        """Nothing is known any more of what an engine holds."""
        for row in self.at(instance_id):
            row.places[instance_id].lose(reason)
            self._rows.settle(instance_id, row.pin_id)

    def owe(self, instance_id: str, pin_id: str, *, retry_at: float, reason: str) -> None:
        """An engine is to be asked for a pin, not before a time."""
        place = self._rows[pin_id].places[instance_id]
        place.retry_at, place.reason = retry_at, reason
        self._rows.unsettle(instance_id, pin_id)

    def owed(self, instance_id: str, now: float) -> list[PinRow]:
        """The pins an engine has to be asked for now.

        One whose time is up is not: to be asked would start its time anew.
        """
        wall = self.now()
        return [
            row
            for row in self._rows.unsettled(instance_id)
            if row.places[instance_id].retry_at <= now and not is_up(row, wall)
        ]

    def at(self, instance_id: str) -> list[PinRow]:
        """The pins that have a place in an engine."""
        return self._rows.at(instance_id)

    def expire(self) -> list[PinRow]:
        """End the pins whose time is up and return them; forget those that ended long ago."""
        now = self.now()
        ended: list[PinRow] = []
        for pin_id in self._ends.due(now):
            row = self._rows.get(pin_id)
            due = None if row is None else due_at(row)
            if row is None or due is None:
                continue
            if due > now:
                if is_up(row, now):
                    self._lose_all(row, "its time is up unless a hit has renewed it")
                self._ends.add(look_at(row, now) or due, pin_id)
            elif row.ended:
                self._drop(row)
            else:
                row.ended = PinState.EXPIRED
                self._journal.note(STANDINGS, pin_id, lazily=True)
                self._journal.note(META, META_KEY, lazily=True)
                for instance_id in row.places:
                    self._rows.settle(instance_id, pin_id)
                    # Who is away for longer than the pin is remembered here
                    # must not bring it back.
                    self.tombstones.bury(pin_id, instance_id, row.version)
                self._ends.add(now + EXPIRED_KEPT_SECONDS, pin_id)
                ended.append(row)
        return ended

    def _lose_all(self, row: PinRow, reason: str) -> None:
        """Nothing is known any more of what any engine holds of a pin."""
        for instance_id, place in row.places.items():
            place.lose(reason)
            self._rows.settle(instance_id, row.pin_id)

    def _add_place(self, row: PinRow, instance_id: str, wanted: NamespacePlace) -> None:
        away = [name for name, place in row.places.items() if place.away]
        if len(away) >= MAX_AWAY:
            # It is remembered only so far as not to bring the pin back.
            oldest = away[0]
            self._rows.drop_place(row, oldest)
            self.tombstones.bury(row.pin_id, oldest, row.version)
        place = PlaceState(location=wanted.location, identity=wanted.identity, joined=True)
        self._rows.add_place(row, instance_id, place)
        self.tombstones.clear(row.pin_id, instance_id)
        self._journal.note(STANDINGS, row.pin_id)

    def _next_version(self, pin_id: str, now: float) -> int:
        row = self._rows.get(pin_id)
        known = max(row.version if row else 0, self.tombstones.highest(pin_id), self._highest)
        self._highest = max(int(now * 1000), known + 1)
        self._journal.note(META, META_KEY)
        return self._highest

    def _take_up(self) -> None:
        """Take up what the journal has kept."""
        for table, read in (
            (META, self._meta),
            (PINS, self._pin_record),
            (STANDINGS, self._standing),
        ):
            self._journal.source(table, read)
        now = self.now()
        set_back = 0.0
        for _, meta in self._journal.read(META, LedgerMeta):
            self.ledger_id, self._highest = meta.ledger_id, meta.highest
            self.is_new = False
            set_back = min(0.0, now - meta.written_at)
        standings = dict(self._journal.read(STANDINGS, Standing))
        for pin_id, record in self._journal.read(PINS, PinRecord):
            if pin_id not in standings:
                raise self._journal.damaged(STANDINGS, pin_id, "it is not there")
            row = row_of(pin_id, record, standings[pin_id])
            if row.expires_at is not None:
                # A clock that was set back meanwhile has done so by that at least.
                row.expires_at += set_back
                if row.content.renew is Renew.ON_HIT and not row.ended:
                    # Engines have gone on counting hits; they say so when they register.
                    row.expires_at = max(row.expires_at, now)
            self._put_in(row)
        if self._rows:
            log.info("ledger.taken_up", pins=len(self._rows), tombstones=len(self.tombstones))
        self.expire()

    def _shift_deadlines(self, seconds: float) -> None:
        for row in self._rows:
            if row.expires_at is not None:
                row.expires_at += seconds
                self._journal.note(STANDINGS, row.pin_id)
        self._journal.note(META, META_KEY)
        self._count_ends()

    def _meta(self, _key: str) -> LedgerMeta:
        return LedgerMeta(self.ledger_id, self._highest, self._clock.wall())

    def _pin_record(self, pin_id: str) -> PinRecord | None:
        row = self._rows.get(pin_id)
        return None if row is None else PinRecord.of(row)

    def _standing(self, pin_id: str) -> Standing | None:
        row = self._rows.get(pin_id)
        return None if row is None else Standing.of(row)

    def _write(self, row: PinRow) -> None:
        old = self._rows.get(row.pin_id)
        self._check_room(row, old)
        if old is not None:
            self._drop(old)
            for instance_id in old.places.keys() - row.places.keys():
                if not old.ended:
                    self.tombstones.bury(row.pin_id, instance_id, row.version)
        self._put_in(row)
        self._journal.note(META, META_KEY)  # Engines name the ledger that their pins are in.
        self._journal.note(PINS, row.pin_id)
        self._journal.note(STANDINGS, row.pin_id)
        for instance_id in row.places:
            self.tombstones.clear(row.pin_id, instance_id)

    def _put_in(self, row: PinRow) -> None:
        self._rows.add(row)
        if (next_look := look_at(row, self._clock.wall())) is not None:
            self._ends.add(next_look, row.pin_id)
        if self._ends.is_stale(len(self._rows)):
            self._count_ends()

    def _count_ends(self) -> None:
        now = self._clock.wall()
        self._ends.replace(
            (at, row.pin_id) for row in self._rows if (at := look_at(row, now)) is not None
        )

    def _drop(self, row: PinRow) -> None:
        self._rows.drop(row)
        self._journal.note(PINS, row.pin_id)
        self._journal.note(STANDINGS, row.pin_id)

    def _check_room(self, row: PinRow, old: PinRow | None) -> None:
        freed = old.content.nbytes if old else 0
        nbytes = self._rows.nbytes - freed + row.content.nbytes
        if nbytes > self._max_bytes or (old is None and len(self) >= self._max_pins):
            message = "the pin ledger is full; release pins that are no longer needed"
            raise LedgerFullError(
                message,
                pins=len(self),
                max_pins=self._max_pins,
                asked_bytes=row.content.nbytes,
                used_bytes=self._rows.nbytes - freed,
                limit_bytes=self._max_bytes,
            )
