"""What pins may take of a tier, and what they cost, whatever happens to the chunks."""

from __future__ import annotations

import pytest

from lmcache_core.api.pins import OnMissing, PinState, Renew
from lmcache_core.engine.pins.table import PINS_AT_ONCE
from lmcache_core.errors import CapacityError, ConflictError
from tests.engine.rig import CHUNK_TOKENS, Rig
from tests.engine.test_pins import MEMORY, ask, flood

TAIL_BYTES = 2 * 4096
CHUNK_BYTES = 5 * 4096


@pytest.fixture
def rig():
    """Room for five whole chunks or ten tails; pins may take four fifths of it."""
    with Rig(chunks=5, block_bytes=4096) as rig:
        yield rig


def taken(rig):
    residents = rig.engine.tiers.memory.residents
    assert residents.pinned_bytes == sum(
        residents.size(key) for key in residents if residents.marked(key)
    )
    return residents.pinned_bytes + residents.reserved_bytes


def limit(rig):
    return rig.engine.tiers.memory.residents.capacity_bytes * 4 // 5


def prompt(number, tokens=CHUNK_TOKENS):
    return [number * 100 + i for i in range(tokens)]


def test_longer_chunks_that_take_the_place_of_pinned_tails_stay_within_the_bound(rig):
    pins = rig.engine.tiers.pins
    for number in range(10):
        rig.serve(prompt(number, 3))
        pins.pin(ask(prompt(number, 3), f"p{number}"))
    assert taken(rig) == limit(rig)
    for number in range(10):
        rig.serve(prompt(number))
        assert taken(rig) <= limit(rig)
    for number in range(10):
        assert pins.report(f"p{number}").tokens_pinned == 3
        assert rig.hit(prompt(number, 3)) == 3
    for number in range(10):
        assert pins.unpin(f"p{number}", 1) == 3
    assert taken(rig) == 0
    rig.serve(prompt(0))
    assert rig.hit(prompt(0)) == CHUNK_TOKENS


def test_a_longer_chunk_takes_a_pinned_tails_place_while_there_is_room(rig):
    pins = rig.engine.tiers.pins
    rig.serve(prompt(0, 3))
    pins.pin(ask(prompt(0, 3)))
    rig.serve(prompt(0))
    assert rig.hit(prompt(0)) == CHUNK_TOKENS
    assert taken(rig) == pins.report("p").pinned_bytes == CHUNK_BYTES


def test_reservations_that_longer_chunks_meet_stay_within_the_bound(rig):
    pins = rig.engine.tiers.pins
    for number in range(10):
        pins.pin(ask(prompt(number, 3), f"p{number}", on_missing=OnMissing.RESERVE))
    assert taken(rig) == limit(rig)
    for number in range(10):
        rig.serve(prompt(number))
        assert taken(rig) <= limit(rig)


@pytest.mark.parametrize("loss", ["force", "reset"])
def test_pins_that_shared_a_chunk_wait_for_it_apart_within_the_bound(rig, loss):
    pins = rig.engine.tiers.pins
    rig.serve(prompt(0))
    for length in range(1, CHUNK_TOKENS):
        pins.pin(ask(prompt(0, length), f"p{length}"))
    assert taken(rig) == CHUNK_BYTES
    if loss == "force":
        rig.engine.tiers.drop(MEMORY, rig.engine.tiers.keys(MEMORY), force=True)
    else:
        rig.engine.reset()
    assert 0 < taken(rig) <= limit(rig)
    rig.serve(prompt(0))
    for length in range(1, CHUNK_TOKENS):
        report = pins.report(f"p{length}")
        assert (report.state, report.tokens_pinned) == (PinState.ACTIVE, length)
    assert taken(rig) == CHUNK_BYTES
    for length in range(1, CHUNK_TOKENS):
        pins.unpin(f"p{length}", 1)
    assert taken(rig) == 0


def test_what_waits_without_room_is_charged_when_it_is_asked_for_again(rig):
    pins = rig.engine.tiers.pins
    rig.serve(prompt(0))
    for length in range(1, CHUNK_TOKENS):
        pins.pin(ask(prompt(0, length), f"p{length}"))
    rig.engine.reset()
    waiting = next(f"p{n}" for n in range(1, 16) if not pins.report(f"p{n}").reserved_bytes)
    length = int(waiting[1:])
    again = ask(prompt(0, length), waiting, on_missing=OnMissing.RESERVE)
    with pytest.raises(CapacityError):
        pins.pin(again)
    for other in range(1, CHUNK_TOKENS):
        if other != length:
            pins.unpin(f"p{other}", 1)
    assert pins.pin(again).reserved_bytes == taken(rig) > 0


def test_a_second_reset_waits_for_no_more_than_the_first(rig):
    pins = rig.engine.tiers.pins
    rig.serve(prompt(0))
    pins.pin(ask(prompt(0, 3 * CHUNK_TOKENS)))
    for _ in range(3):
        rig.engine.reset()
        assert taken(rig) == CHUNK_BYTES
    rig.serve(prompt(0, 3 * CHUNK_TOKENS))
    assert pins.report("p").tokens_pinned == CHUNK_TOKENS


def test_a_reset_waits_for_what_was_lost_before_it(rig):
    pins = rig.engine.tiers.pins
    rig.serve(prompt(0))
    pins.pin(ask(prompt(0, 3 * CHUNK_TOKENS)))
    rig.engine.tiers.drop(MEMORY, rig.engine.tiers.keys(MEMORY), force=True)
    rig.engine.reset()
    assert taken(rig) == CHUNK_BYTES


def test_what_was_lost_and_came_back_is_not_degraded(rig):
    pins = rig.engine.tiers.pins
    rig.serve(prompt(0))
    pins.pin(ask(prompt(0, 2 * CHUNK_TOKENS)))
    rig.engine.tiers.drop(MEMORY, rig.engine.tiers.keys(MEMORY), force=True)
    assert pins.report("p").state is PinState.DEGRADED
    rig.serve(prompt(0))
    report = pins.report("p")
    assert (report.state, report.tokens_pinned) == (PinState.PARTIAL, CHUNK_TOKENS)


def test_no_lower_version_revives_what_was_released(rig):
    pins = rig.engine.tiers.pins
    assert pins.pin(ask(prompt(0), version=0)).version == 0
    pins.unpin("p", 5)
    pins.unpin("p", 3)
    with pytest.raises(ConflictError, match="version 5"):
        pins.pin(ask(prompt(0), version=0))
    with pytest.raises(ConflictError, match="version 5"):
        pins.pin(ask(prompt(0), version=4))


def test_renewing_a_pin_for_ever_costs_no_memory(rig):
    pins = rig.engine.tiers.pins
    for version in range(1, 1000):
        pins.pin(ask(prompt(0), ttl_seconds=3600, version=version))
    assert len(pins._alarms) == 1
    pins.unpin("p", 1000)
    assert len(pins._alarms) == 0


def test_a_shorter_time_ends_a_pin_sooner_and_a_longer_one_later(rig, monkeypatch):
    pins = rig.engine.tiers.pins
    now = 0.0
    monkeypatch.setattr(pins, "_clock", lambda: now)
    pins.pin(ask(prompt(0), "sooner", ttl_seconds=100))
    pins.pin(ask(prompt(0), "sooner", ttl_seconds=10, version=2))
    pins.pin(ask(prompt(0), "later", ttl_seconds=10))
    pins.pin(ask(prompt(0), "later", ttl_seconds=100, version=2))
    pins.pin(ask(prompt(0), "never", ttl_seconds=10))
    pins.pin(ask(prompt(0), "never", version=2))
    now = 10.0
    assert pins.expire() == ["sooner"]
    now = 1e9
    assert pins.expire() == ["later"]
    assert len(pins) == 1


def test_a_hit_of_one_chunk_renews_the_pins_of_all_that_share_it(rig, monkeypatch):
    pins = rig.engine.tiers.pins
    now = 0.0
    monkeypatch.setattr(pins, "_clock", lambda: now)
    rig.serve(prompt(0, 2 * CHUNK_TOKENS))
    for name, tokens in (("short", 5), ("one", CHUNK_TOKENS), ("both", 2 * CHUNK_TOKENS)):
        pins.pin(ask(prompt(0, tokens), name, ttl_seconds=10, renew=Renew.ON_HIT))
    pins.take_changed()
    now = 8.0
    assert rig.hit(prompt(0, 2 * CHUNK_TOKENS)) == 2 * CHUNK_TOKENS
    assert {report.pin_id for report in pins.take_changed()} == {"short", "one", "both"}
    now = 17.0
    assert pins.expire() == []


def test_a_quota_counts_every_pin_until_it_ends():
    with Rig(chunks=10, overrides={"pin_owner_quota_bytes": 2 * 8192}) as rig:
        pins = rig.engine.tiers.pins
        for number in range(4):
            rig.serve(prompt(number))
        for number in range(2):
            pins.pin(ask(prompt(number), f"p{number}"))
        with pytest.raises(CapacityError) as refused:
            pins.pin(ask(prompt(2), "p2"))
        assert refused.value.used_bytes == 2 * 8192
        pins.unpin("p0", 1)
        pins.pin(ask(prompt(2), "p2"))
        pins.pin(ask(prompt(3), "p2", version=2))
        with pytest.raises(CapacityError):
            pins.pin(ask(prompt(0), "p3"))
        for name in ("p1", "p2"):
            pins.unpin(name, 9)
        pins.pin(ask([*prompt(0), *prompt(1)], "p4", on_missing=OnMissing.RESERVE))


def test_a_flood_after_all_this_leaves_the_accounting_exact(rig):
    flood(rig)
    memory = rig.engine.tiers.memory
    assert memory.residents.used_bytes == memory._pool.used_bytes


def test_alarms_that_come_too_early_are_looked_at_some_at_a_time(rig, monkeypatch):
    pins = rig.engine.tiers.pins
    now = 0.0
    monkeypatch.setattr(pins, "_clock", lambda: now)
    rig.serve(prompt(0))
    names = [f"p{number}" for number in range(2 * PINS_AT_ONCE + 1)]
    for version in (1, 2):
        for name in names:
            pins.pin(ask(prompt(0), name, ttl_seconds=10 * version, version=version))
    now = 10.0
    looks = 0
    while pins.alarmed:
        assert pins.expire() == []
        looks += 1
    assert looks == 3
    now = 20.0
    ended = []
    while pins.alarmed:
        ended += pins.expire()
    assert sorted(ended) == sorted(names)
