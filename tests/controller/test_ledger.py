"""The ledger alone, under a clock of the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from lmcache_core.api.messages import Held
from lmcache_core.api.pins import OnMissing, PinReport, PinRequest, PinState, Renew
from lmcache_core.controller import ends as ends_module
from lmcache_core.controller import tombstones as tombstones_module
from lmcache_core.controller.ends import EXPIRED_KEPT_SECONDS, ON_HIT_GRACE_SECONDS
from lmcache_core.controller.failures import LedgerFullError
from lmcache_core.controller.journal import Journal
from lmcache_core.controller.ledger import Ledger
from lmcache_core.controller.ledger_clock import LedgerClock
from lmcache_core.controller.ledger_file import Change, LedgerFile
from lmcache_core.controller.pin_row import PinContent, PinRow, Place, PlaceState
from lmcache_core.controller.tombstones import Tombstones
from lmcache_core.errors import ConfigError
from lmcache_core.keys import Scope
from lmcache_transport_zmq import frames

IDENTITY = b"n" * 32


class Wall:
    """Unix time that moves when it is told to."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def passing(wall: Wall) -> LedgerClock:
    """A clock that nobody sets: where it moves, time has passed."""
    return LedgerClock(wall, wall)


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def ledger(wall: Wall) -> Ledger:
    return Ledger(clock=passing(wall))


def content(*instances: str, tokens: int = 4, **fields: object) -> PinContent:
    places = tuple(Place(name, "memory") for name in instances or ("e",))
    return PinContent(owner="o", places=places, tokens=bytes(4 * tokens), **fields)  # type: ignore[arg-type]


def put(ledger: Ledger, pin_id: str = "p", what: PinContent | None = None) -> PinRow:
    what = what or content()
    places = {
        p.instance_id: PlaceState(location=p.location, identity=IDENTITY) for p in what.places
    }
    return ledger.put(pin_id, what, places)


def report(row: PinRow, pinned: int = 4, **fields: object) -> PinReport:
    asked = row.content.num_tokens
    state = PinState.ACTIVE if pinned == asked else PinState.PARTIAL
    return PinReport(
        pin_id=row.pin_id,
        version=row.version,
        tokens_asked=asked,
        tokens_pinned=pinned,
        **{"state": state, **fields},  # type: ignore[arg-type]
    )


def test_a_pin_is_pending_until_its_engine_has_answered(ledger: Ledger) -> None:
    row = put(ledger)
    assert (row.state, row.tokens_pinned) == (PinState.PENDING, 0)
    ledger.take("e", report(row))
    assert (row.state, row.tokens_pinned) == (PinState.ACTIVE, 4)
    assert not ledger.owed("e", 0.0)


def test_reports_of_others_and_of_older_versions_are_passed_over(ledger: Ledger) -> None:
    old = put(ledger)
    new = put(ledger)
    assert new.version > old.version
    ledger.take("e", report(old))
    ledger.take("stranger", report(new))
    assert new.state is PinState.PENDING


def test_versions_rise_and_a_new_ledger_starts_above_an_old_one(wall: Wall) -> None:
    old = Ledger(clock=passing(wall))
    versions = [put(old).version for _ in range(5)]
    assert versions == sorted(set(versions))
    wall.now += 1
    assert put(Ledger(clock=passing(wall))).version > versions[-1]


def test_a_clock_that_goes_back_takes_no_version_back(ledger: Ledger, wall: Wall) -> None:
    first = put(ledger).version
    wall.now -= 3600
    row = put(ledger)
    assert row.version > first
    released = ledger.release(row).version
    ledger.tombstones.acknowledge("p", "e", released)
    assert put(ledger).version > released


def test_the_worst_place_is_the_pins_state(ledger: Ledger) -> None:
    row = put(ledger, what=content("a", "b", "c"))
    ledger.take("a", report(row))
    ledger.take("b", report(row, 2))
    assert row.state is PinState.PENDING
    ledger.take("c", report(row))
    assert (row.state, row.tokens_pinned) == (PinState.PARTIAL, 4)
    ledger.take("a", report(row, 1))
    assert row.state is PinState.DEGRADED


def test_an_engine_that_says_more_than_was_asked_is_not_believed(ledger: Ledger) -> None:
    row = put(ledger)
    ledger.take("e", report(row, 99))
    assert row.tokens_pinned == 4


def test_a_pin_ends_at_its_time_for_good(ledger: Ledger, wall: Wall) -> None:
    row = put(ledger, what=content(ttl_seconds=10.0))
    ledger.take("e", report(row))
    wall.now += 9.9
    assert not ledger.expire()
    wall.now += 0.2
    assert ledger.expire() == [row]
    ledger.take("e", report(row))
    assert (row.state, row.ended) == (PinState.EXPIRED, PinState.EXPIRED)
    assert not ledger.owed("e", 0.0)
    assert not ledger.expire()
    wall.now += EXPIRED_KEPT_SECONDS
    assert not ledger.expire()
    assert ledger.get("p") is None
    assert not ledger.at("e")


def test_a_renewed_pin_ends_at_its_new_time(ledger: Ledger, wall: Wall) -> None:
    put(ledger, what=content(ttl_seconds=10.0))
    wall.now += 8
    row = put(ledger, what=content(ttl_seconds=10.0))
    wall.now += 8
    assert not ledger.expire()
    wall.now += 2.1
    assert ledger.expire() == [row]


def test_a_pin_that_hits_renew_waits_for_the_report_of_one(ledger: Ledger, wall: Wall) -> None:
    row = put(ledger, what=content(ttl_seconds=10.0, renew=Renew.ON_HIT))
    wall.now += 10 + ON_HIT_GRACE_SECONDS - 0.1
    assert not ledger.expire()
    ledger.take("e", report(row, ttl_seconds=9.0))
    wall.now += 9
    assert not ledger.expire()
    wall.now += ON_HIT_GRACE_SECONDS
    assert ledger.expire() == [row]


def test_a_pin_whose_time_is_up_holds_nothing_until_a_hit_is_reported(
    ledger: Ledger, wall: Wall
) -> None:
    row = put(ledger, what=content(ttl_seconds=10.0, renew=Renew.ON_HIT))
    ledger.take("e", report(row, ttl_seconds=10.0))
    wall.now += 6
    ledger.take("e", report(row, ttl_seconds=10.0))
    wall.now += 9.9
    ledger.expire()
    assert (row.state, row.tokens_pinned) == (PinState.ACTIVE, 4)
    wall.now += 0.2
    assert ledger.expire() == []
    assert (row.state, row.tokens_pinned) == (PinState.PENDING, 0)
    assert "its time is up" in row.reason
    ledger.take("e", report(row, ttl_seconds=9.0))
    assert (row.state, row.tokens_pinned) == (PinState.ACTIVE, 4)
    wall.now += 9.1
    ledger.expire()
    assert row.tokens_pinned == 0
    wall.now += ON_HIT_GRACE_SECONDS
    assert ledger.expire() == [row]


def test_an_engine_is_not_asked_for_a_pin_whose_time_is_up(ledger: Ledger, wall: Wall) -> None:
    row = put(ledger, what=content(ttl_seconds=10.0, renew=Renew.ON_HIT))
    ledger.take("e", report(row, ttl_seconds=10.0))
    ledger.owe("e", "p", retry_at=0.0, reason="it has registered without the pin")
    assert ledger.owed("e", 1.0) == [row]
    wall.now += 11
    ledger.expire()
    ledger.owe("e", "p", retry_at=0.0, reason="it has registered without the pin")
    assert ledger.owed("e", 1.0) == []


def test_renewing_often_keeps_few_ends(ledger: Ledger) -> None:
    for _ in range(20_000):
        put(ledger, what=content(ttl_seconds=1e6))
    assert len(ledger._ends) <= 2 * ends_module.MIN_ENDS


def test_a_release_is_owed_until_it_is_acknowledged(ledger: Ledger) -> None:
    row = ledger.release(put(ledger, what=content("a", "b")))
    assert row.state is PinState.RELEASED
    assert ledger.get("p") is None
    graves = ledger.tombstones
    assert graves.owed("a") == graves.owed("b") == [("p", row.version)]
    graves.acknowledge("p", "a", row.version - 1)
    assert graves.owed("a")
    graves.acknowledge("p", "a", row.version)
    assert not graves.owed("a")
    assert len(graves) == 1
    again = put(ledger, what=content("b"))
    assert again.version > row.version
    assert len(graves) == 0


def test_a_pin_that_moves_is_to_be_released_where_it_was(ledger: Ledger) -> None:
    put(ledger, what=content("a"))
    row = put(ledger, what=content("b"))
    assert ledger.tombstones.owed("a") == [("p", row.version)]
    assert [r.pin_id for r in ledger.at("b")] == ["p"]
    assert not ledger.at("a")


def test_a_refused_change_leaves_what_was_before(ledger: Ledger) -> None:
    old = put(ledger, what=content(ttl_seconds=10.0))
    ledger.take("e", report(old))
    put(ledger, what=content(tokens=9))
    row = ledger.restore(old)
    assert row.content == old.content
    assert row.expires_at == old.expires_at
    assert ledger.owed("e", 0.0) == [row]
    assert row.again("e", now=0.0).on_missing is OnMissing.RESERVE


def test_what_is_asked_for_again_is_what_was_held(ledger: Ledger) -> None:
    row = put(ledger, what=content(tokens=10))
    ledger.take("e", report(row, 6))
    ledger.lose("e", "restarted")
    assert (row.state, row.tokens_pinned) == (PinState.PENDING, 0)
    again = row.again("e", now=0.0)
    assert (len(again.tokens) // 4, again.on_missing) == (6, OnMissing.RESERVE)
    never = put(ledger, "q", content(tokens=10))
    assert never.again("e", now=0.0) == never.request("e", now=0.0)


def adopted(ledger: Ledger, name: str = "e", ttl: float | None = None, version: int = 7) -> PinRow:
    request = PinRequest(
        pin_id="p", version=version, location="memory", tokens=bytes(16), ttl_seconds=ttl
    )
    state = PinReport(
        pin_id="p", version=version, state=PinState.ACTIVE, tokens_asked=4, tokens_pinned=4
    )
    return ledger.adopt(name, IDENTITY, request, state)


def test_a_pin_is_adopted_from_the_engines_that_hold_it(ledger: Ledger) -> None:
    adopted(ledger, "a")
    row = adopted(ledger, "b")
    assert (row.state, row.version) == (PinState.ACTIVE, 7)
    assert sorted(row.places) == ["a", "b"]
    newer = adopted(ledger, "b", version=8)
    assert list(newer.places) == ["b"]
    assert ledger.tombstones.owed("a") == [("p", 8)]


@pytest.mark.parametrize(("ttl", "left"), [(5.0, 5.0), (None, None), (float("nan"), None)])
def test_an_adopted_pin_keeps_the_time_it_had_left(
    ledger: Ledger, wall: Wall, ttl: float | None, left: float | None
) -> None:
    row = adopted(ledger, ttl=ttl)
    assert row.expires_at == (None if left is None else wall.now + left)
    assert row.is_for(
        PinContent(
            owner="default",
            places=(Place("e", "memory"),),
            tokens=bytes(16),
            ttl_seconds=None if left is None else 600.0,
        )
    )


def test_the_ledger_is_bounded_and_says_so_with_numbers(wall: Wall) -> None:
    ledger = Ledger(clock=passing(wall), max_pins=2, max_bytes=3000)
    put(ledger, "a")
    put(ledger, "b")
    with pytest.raises(LedgerFullError) as error:
        put(ledger, "c")
    size = content().nbytes
    assert error.value.facts == {
        "pins": 2,
        "max_pins": 2,
        "asked_bytes": size,
        "used_bytes": 2 * size,
        "limit_bytes": 3000,
    }
    put(ledger, "a")
    with pytest.raises(LedgerFullError):
        put(ledger, "a", content(tokens=500))
    assert len(ledger) == 2
    ledger.release(ledger.get("a"))  # type: ignore[arg-type]
    put(ledger, "c")


@pytest.mark.parametrize(
    "what",
    [
        content(),
        content(tokens=1000),
        content(scope=Scope.of(cache_salt="s", adapter="é" * 1024)),
        content(labels={f"{n}" * 60: "ü" * 256 for n in range(10, 42)}),
    ],
)
def test_a_pin_is_counted_for_what_it_takes_in_a_message(ledger: Ledger, what: PinContent) -> None:
    row = put(ledger, "p" * 128, what)
    none = Held(instance_id="e", incarnation=1)
    one = msgspec.structs.replace(
        none,
        pins=(report(row, 1, reason="x" * 100, ttl_seconds=1.5),),
        pin_requests=(row.request("e", now=0.0),),
    )
    taken = len(frames.encode(one)) - len(frames.encode(none))
    assert taken <= what.nbytes


def test_tombstones_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tombstones_module, "MAX_TOMBSTONES", 3)
    graves = Tombstones(Journal())
    for number in range(10):
        graves.bury(f"p{number}", "e", number)
    assert [pin_id for pin_id, _ in graves.owed("e")] == ["p7", "p8", "p9"]
    assert len(graves) == 3
    for pin_id, version in graves.owed("e"):
        graves.acknowledge(pin_id, "e", version)
    assert not graves._by_instance


class Kept:
    """A ledger in a file, opened as often as a test likes, under two clocks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.wall = Wall()
        self.passed = 0.0

    def wait(self, seconds: float) -> None:
        self.wall.now += seconds
        self.passed += seconds

    def use(self, act: Callable[[Ledger], object]) -> None:
        """Open it, do something, write it, close it."""

        async def run() -> None:
            journal = Journal(LedgerFile.open(self.path))
            try:
                act(Ledger(journal, LedgerClock(self.wall, lambda: self.passed)))
            finally:
                await journal.close()

        asyncio.run(run())


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "pins.sqlite")


def test_a_ledger_keeps_its_name_its_pins_and_what_was_covered(kept: Kept) -> None:
    seen: list[Ledger] = []

    def fill(ledger: Ledger) -> None:
        row = put(ledger, what=content("a", "b", tokens=10, labels={"x": "é"}))
        ledger.take("a", report(row, 6))
        seen.append(ledger)

    def look(ledger: Ledger) -> None:
        (before,) = seen
        assert ledger.ledger_id == before.ledger_id
        old, new = before.get("p"), ledger.get("p")
        assert old is not None
        assert new is not None
        assert (new.content, new.version, new.created_at) == (
            old.content,
            old.version,
            old.created_at,
        )
        assert (new.state, new.tokens_pinned) == (PinState.PENDING, 0)
        assert [row.pin_id for row in ledger.owed("b", 0.0)] == ["p"]
        again = new.again("a", now=0.0)
        assert (len(again.tokens) // 4, again.on_missing) == (6, OnMissing.RESERVE)
        assert put(ledger, "q").version > old.version

    kept.use(fill)
    kept.use(look)


def test_a_version_given_out_is_never_given_again(kept: Kept) -> None:
    versions: list[int] = []

    def make_and_release(ledger: Ledger) -> None:
        row = put(ledger)
        versions.append(ledger.release(row).version)
        ledger.tombstones.acknowledge("p", "e", row.version)

    kept.use(make_and_release)
    kept.wall.now -= 86_400
    kept.use(make_and_release)
    assert versions[1] > versions[0]


@pytest.mark.parametrize("jump", [-7200.0, 7200.0])
def test_a_clock_that_is_set_moves_no_end(kept: Kept, jump: float) -> None:
    def use(ledger: Ledger) -> None:
        put(ledger, what=content(ttl_seconds=100.0))
        kept.wait(60)
        kept.wall.now += jump
        assert ledger.expire() == []
        kept.wait(39)
        assert ledger.expire() == []
        kept.wait(2)
        assert len(ledger.expire()) == 1

    kept.use(use)


def test_a_clock_that_is_set_back_while_nobody_looks_prolongs_little(kept: Kept) -> None:
    kept.use(lambda ledger: put(ledger, what=content(ttl_seconds=100.0)))
    kept.wall.now -= 86_400

    def use(ledger: Ledger) -> None:
        assert ledger.expire() == []
        kept.wait(101)
        assert len(ledger.expire()) == 1

    kept.use(use)


def test_what_expires_while_nobody_looks_is_expired_and_owed_for_good(kept: Kept) -> None:
    kept.use(lambda ledger: put(ledger, what=content(ttl_seconds=100.0)))
    kept.wait(101)

    def look(ledger: Ledger) -> None:
        row = ledger.get("p")
        assert row is not None
        assert row.state is PinState.EXPIRED
        assert ledger.tombstones.owed("e") == [("p", row.version)]

    kept.use(look)
    kept.wait(EXPIRED_KEPT_SECONDS)

    def forget(ledger: Ledger) -> None:
        ledger.expire()
        assert ledger.get("p") is None
        assert [pin_id for pin_id, _ in ledger.tombstones.owed("e")] == ["p"]

    kept.use(forget)
    kept.use(forget)


def test_a_pin_that_hits_renew_waits_for_engines_after_a_restart(kept: Kept) -> None:
    kept.use(lambda ledger: put(ledger, what=content(ttl_seconds=10.0, renew=Renew.ON_HIT)))
    kept.wait(3600)

    def use(ledger: Ledger) -> None:
        row = ledger.get("p")
        assert row is not None
        assert row.ended is None
        kept.wait(ON_HIT_GRACE_SECONDS - 1)
        ledger.take("e", report(row, ttl_seconds=9.0))
        kept.wait(9)
        assert ledger.expire() == []
        kept.wait(ON_HIT_GRACE_SECONDS + 1)
        assert ledger.expire() == [row]

    kept.use(use)


def test_half_a_pin_is_damage(kept: Kept) -> None:
    kept.use(put)
    file = LedgerFile.open(kept.path)
    file.write([Change("standings", "p", None)])
    file.close()
    with pytest.raises(ConfigError, match="'p' of standings cannot be used"):
        kept.use(lambda _ledger: None)
