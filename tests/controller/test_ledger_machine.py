"""The ledger beside a plain model: crashes, restarts, clocks that are set, time that passes."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lmcache_core.api.deadline import Deadline
from lmcache_core.api.pins import PinReport, PinState
from lmcache_core.controller.ends import EXPIRED_KEPT_SECONDS
from lmcache_core.controller.journal import Journal
from lmcache_core.controller.ledger import Ledger
from lmcache_core.controller.ledger_clock import LedgerClock
from lmcache_core.controller.ledger_file import LedgerFile
from lmcache_core.controller.pin_row import PinContent, Place, PlaceState
from tests.controller.engine_peer import MEMORY

IDENTITY = b"n" * 32
PINS = ["a", "b", "c"]
ENGINES = ["e", "f"]

pins = st.sampled_from(PINS)
engines = st.sampled_from(ENGINES)
ttls = st.none() | st.integers(1, 300).map(float)
waits = st.integers(0, 400).map(float)


class Held(NamedTuple):
    """A pin as the model has it."""

    version: int
    places: tuple[str, ...]
    ends_in: float | None
    since: float
    covered: frozenset[str] = frozenset()

    def ended(self, now: float) -> bool:
        return self.ends_in is not None and now - self.since >= self.ends_in


class Model(NamedTuple):
    """What a ledger knows; times are seconds that have passed."""

    held: dict[str, Held]
    expired: dict[str, int]
    owed: dict[tuple[str, str], int]

    def copy(self) -> Model:
        return Model(dict(self.held), dict(self.expired), dict(self.owed))


class HeldJournal(Journal):
    """Commits only when it is told to, so that the model knows what a crash takes."""

    may_commit = False

    def _begin(self) -> None:
        if self.may_commit:
            super()._begin()
        else:
            self._alarm, self._hurried = None, False


class LedgerMachine(RuleBasedStateMachine):
    """Everything between two syncs may be lost by a crash, nothing before."""

    def __init__(self) -> None:
        super().__init__()
        # It ends processes and no power, so that memory does for a disk, and is quick.
        memory = Path("/dev/shm")
        self.folder = tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)
        self.path = Path(self.folder.name) / "pins.sqlite"
        self.passed = 1000.0
        self.set_by = 1_800_000_000.0
        self.loop = asyncio.new_event_loop()
        self.now = Model({}, {}, {})
        self.synced = self.now.copy()
        self.highest = self.synced_highest = 0
        self.open()

    # -- the ledger ------------------------------------------------------

    def open(self) -> None:
        async def make() -> Ledger:
            self.journal = HeldJournal(LedgerFile.open(self.path))
            clock = LedgerClock(lambda: self.passed + self.set_by, lambda: self.passed)
            return Ledger(self.journal, clock)

        self.ledger = self.loop.run_until_complete(make())

    def do(self, act: object) -> object:
        async def run() -> object:
            return act()  # type: ignore[operator]

        return self.loop.run_until_complete(run())

    def sync(self) -> None:
        self.journal.may_commit = True
        self.loop.run_until_complete(self.ledger.synced(Deadline(20)))
        self.journal.may_commit = False
        self.synced, self.synced_highest = self.now.copy(), self.highest

    # -- what happens ----------------------------------------------------

    @rule(pin_id=pins, places=st.sets(engines, min_size=1), ttl=ttls)
    def put(self, pin_id: str, places: set[str], ttl: float | None) -> None:
        content = PinContent(
            owner="o",
            places=tuple(Place(name, MEMORY) for name in sorted(places)),
            tokens=bytes(16),
            ttl_seconds=ttl,
        )
        states = {name: PlaceState(location=MEMORY, identity=IDENTITY) for name in sorted(places)}
        row = self.do(lambda: self.ledger.put(pin_id, content, states))
        assert row.version > self.highest  # type: ignore[attr-defined]
        self.highest = row.version  # type: ignore[attr-defined]
        old = self.now.held.get(pin_id)
        for name in set(old.places) - places if old else ():
            self.now.owed[pin_id, name] = self.highest
        for name in places:
            self.now.owed.pop((pin_id, name), None)
        self.now.expired.pop(pin_id, None)
        self.now.held[pin_id] = Held(self.highest, tuple(sorted(places)), ttl, self.passed)
        self.sync()

    @rule(pin_id=pins, engine=engines)
    def report(self, pin_id: str, engine: str) -> None:
        held = self.now.held.get(pin_id)
        version = held.version if held else self.highest
        report = PinReport(
            pin_id=pin_id,
            version=version,
            state=PinState.ACTIVE,
            tokens_asked=4,
            tokens_pinned=4,
        )
        self.do(lambda: self.ledger.take(engine, report))
        if held and engine in held.places:
            self.now.held[pin_id] = held._replace(covered=held.covered | {engine})

    @rule(pin_id=pins)
    def release(self, pin_id: str) -> None:
        held = self.now.held.pop(pin_id, None)
        if held is None:
            return
        row = self.ledger.get(pin_id)
        assert row is not None
        self.highest = self.do(lambda: self.ledger.release(row)).version  # type: ignore[attr-defined]
        for name in held.places:
            self.now.owed[pin_id, name] = self.highest

    @rule(pin_id=pins, engine=engines)
    def acknowledge(self, pin_id: str, engine: str) -> None:
        version = self.now.owed.pop((pin_id, engine), None)
        if version is not None:
            self.do(lambda: self.ledger.tombstones.acknowledge(pin_id, engine, version))

    @rule()
    def answer(self) -> None:
        self.sync()

    @rule(seconds=waits)
    def pass_time(self, seconds: float) -> None:
        self.passed += seconds

    @rule(seconds=st.integers(-100_000, 100_000).filter(lambda s: abs(s) > 2))
    def set_clock(self, seconds: float) -> None:
        self.set_by += seconds
        self.do(self.ledger.now)  # As the next sweep does, which nobody waits for.
        self.sync()

    @precondition(lambda self: self.path.exists())
    @rule(orderly=st.booleans(), away=waits)
    def restart(self, orderly: bool, away: float) -> None:
        if orderly:
            self.journal.may_commit = True
            self.loop.run_until_complete(self.journal.close())
            self.synced, self.synced_highest = self.now.copy(), self.highest
        else:
            self.crash()
            # A version that was not synced was told to nobody, and may be given again.
            self.highest = self.synced_highest
        self.passed += away
        self.now = self.synced.copy()
        self.open()

    def crash(self) -> None:
        """End without another write."""
        journal = self.journal
        if journal._alarm is not None:
            journal._alarm.cancel()
        assert journal._writing is None
        assert journal._file is not None
        journal._batches.put(None)
        if journal._thread is not None:
            journal._thread.join()
        journal._file._connection.close()

    # -- what must hold --------------------------------------------------

    @invariant()
    def ledger_says_what_the_model_says(self) -> None:
        self.do(self.ledger.expire)
        for pin_id, held in list(self.now.held.items()):
            if held.ended(self.passed):
                del self.now.held[pin_id]
                self.now.expired[pin_id] = held.version
                for name in held.places:
                    self.now.owed[pin_id, name] = held.version
        rows = {row.pin_id: row for row in self.ledger.rows()}
        living = {pin_id: row for pin_id, row in rows.items() if row.ended is None}
        assert living.keys() == self.now.held.keys()
        for pin_id, row in living.items():
            held = self.now.held[pin_id]
            assert row.version == held.version
            assert tuple(sorted(row.places)) == held.places
            covered = {name for name, place in row.places.items() if place.covered}
            assert covered == held.covered
            if held.ends_in is None:
                assert row.expires_at is None
            else:
                left = held.ends_in - (self.passed - held.since)
                assert row.expires_at is not None
                assert abs(row.expires_at - self.ledger.now() - left) < 0.01
        for pin_id, row in rows.items():
            if row.ended is not None:
                assert row.ended is PinState.EXPIRED
                assert self.now.expired[pin_id] == row.version
        owed = {
            (pin_id, name): version
            for name in ENGINES
            for pin_id, version in self.ledger.tombstones.owed(name)
        }
        assert owed == self.now.owed

    def teardown(self) -> None:
        self.journal.may_commit = True
        self.loop.run_until_complete(self.journal.close())
        self.loop.close()
        self.folder.cleanup()


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

assert EXPIRED_KEPT_SECONDS > 400, "the model keeps expired pins for ever"
