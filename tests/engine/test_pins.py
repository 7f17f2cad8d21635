"""Pins by the rules of the pin chapter: marked by id, bounded, honest."""

from __future__ import annotations

import msgspec
import pytest

from lmcache_core.api.pins import OnMissing, PinRenewal, PinRequest, PinState, Renew
from lmcache_core.errors import (
    CapacityError,
    ConflictError,
    NotCachedError,
    NotHeldError,
    UnknownNameError,
)
from lmcache_core.keys import Scope, tokens_to_bytes
from tests.engine.rig import CHUNK_TOKENS, SLOT_BYTES, Rig

MEMORY = "LocalCPUBackend"


def ask(tokens, pin_id="p", **fields) -> PinRequest:
    fields.setdefault("version", 1)
    fields.setdefault("location", MEMORY)
    return PinRequest(pin_id=pin_id, tokens=tokens_to_bytes(tokens), **fields)


@pytest.fixture
def rig():
    with Rig(chunks=10) as rig:
        yield rig


@pytest.fixture
def pins(rig):
    return rig.engine.tiers.pins


def flood(rig, chunks=40):
    for start in range(chunks):
        rig.serve([10_000 + start * 100 + i for i in range(CHUNK_TOKENS)])


def test_never_seen_tokens_pin_nothing(pins):
    report = pins.pin(ask(range(40)))
    assert (report.tokens_pinned, report.first_missing, report.pinned_bytes) == (0, 0, 0)
    assert report.state is PinState.PARTIAL


@pytest.mark.parametrize("length", [1, 12, 16, 40])
def test_a_cached_prompt_is_pinned_whole_and_survives_a_flood(rig, pins, length):
    tokens = list(range(length))
    rig.serve(tokens)
    report = pins.pin(ask(tokens))
    assert (report.tokens_pinned, report.state) == (length, PinState.ACTIVE)
    other = [5000 + i for i in range(16)]
    rig.serve(other)
    flood(rig)
    assert rig.hit(tokens) == length
    assert rig.hit(other) == 0


def test_the_cached_prefix_of_a_longer_sequence_is_pinned(rig, pins):
    tokens = list(range(45))
    rig.serve(tokens[:19])
    report = pins.pin(ask(tokens))
    assert (report.tokens_pinned, report.first_missing) == (19, 19)


def test_a_prompt_that_only_began_longer_ones_is_pinned_to_the_token(rig, pins):
    rig.serve(list(range(40)))
    assert pins.pin(ask(range(5))).tokens_pinned == 5
    flood(rig)
    assert rig.hit(list(range(5))) == 5


def test_a_released_pin_holds_nothing(rig, pins):
    tokens = list(range(20))
    rig.serve(tokens)
    pins.pin(ask(tokens))
    assert pins.unpin("p", 1) == 20
    assert pins.unpin("p", 1) == 0
    flood(rig)
    assert rig.hit(tokens) == 0


def test_two_pins_of_one_chunk_are_told_apart_by_id(rig, pins):
    tokens = list(range(20))
    rig.serve(tokens)
    pins.pin(ask(tokens, "a"))
    pins.pin(ask(tokens, "b"))
    pins.unpin("a", 1)
    pins.unpin("a", 1)
    flood(rig)
    assert rig.hit(tokens) == 20


def test_a_repeated_pin_is_one_pin(rig, pins):
    tokens = list(range(20))
    rig.serve(tokens)
    first, second = pins.pin(ask(tokens)), pins.pin(ask(tokens))
    assert first == second
    assert len(pins) == 1
    flood(rig)
    assert rig.hit(tokens) == 20
    assert pins.pin(ask(range(50), version=2)).tokens_pinned == 20
    flood(rig)
    assert rig.hit(tokens) == 20
    pins.unpin("p", 2)
    assert rig.engine.tiers.memory.residents.pinned_bytes == 0


def test_a_lower_version_never_beats_a_higher_one(rig, pins):
    tokens = list(range(20))
    rig.serve(tokens)
    pins.pin(ask(tokens, version=3))
    with pytest.raises(ConflictError, match="version 3"):
        pins.pin(ask(tokens, version=2))
    with pytest.raises(ConflictError, match="version 3"):
        pins.unpin("p", 2)
    assert pins.unpin("p", 4) == 20
    with pytest.raises(ConflictError, match="version 4"):
        pins.pin(ask(tokens, version=3))
    assert pins.pin(ask(tokens, version=5)).tokens_pinned == 20


def renewal(version, since, **fields) -> PinRenewal:
    fields.setdefault("location", MEMORY)
    return PinRenewal(pin_id="p", version=version, since=since, **fields)


def test_a_pin_that_is_held_whole_is_changed_without_its_tokens(rig, pins, clock):
    tokens = list(range(20))
    rig.serve(tokens)
    pins.pin(ask(tokens, ttl_seconds=10.0))
    change = {"ttl_seconds": 60.0, "renew": Renew.ON_HIT, "labels": {"a": "b"}}
    report = pins.renew(renewal(2, 1, on_missing=OnMissing.RESERVE, **change))
    ((request, known),) = pins.held(["p"])
    assert request == ask(tokens, version=2, on_missing=OnMissing.RESERVE, **change)
    assert report == known
    assert (report.version, report.tokens_pinned, report.state) == (2, 20, PinState.ACTIVE)
    clock.now = 59.0
    assert pins.expire() == []
    flood(rig)
    assert rig.hit(tokens) == 20


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(renewal(3, 1), id="another version"),
        pytest.param(renewal(3, 2, location="LocalDiskBackend"), id="another place"),
        pytest.param(msgspec.structs.replace(renewal(3, 2), pin_id="q"), id="another pin"),
    ],
)
def test_a_pin_that_is_not_held_so_is_not_changed_without_its_tokens(rig, pins, change):
    rig.serve(list(range(20)))
    pins.pin(ask(range(20), version=2))
    before = pins.held(["p"])
    with pytest.raises(NotHeldError, match=f"{change.location} at version {change.since}"):
        pins.renew(change)
    assert pins.held(["p", "q"]) == before


def test_a_pin_that_lost_something_is_not_changed_without_its_tokens(rig, pins):
    rig.serve(list(range(20)))
    pins.pin(ask(range(20)))
    residents = rig.engine.tiers.memory.residents
    rig.engine.tiers.drop(MEMORY, list(residents)[:1], force=True)
    before = pins.held(["p"])
    with pytest.raises(NotHeldError):
        pins.renew(renewal(2, 1))
    assert pins.held(["p"]) == before


def test_a_renewal_does_not_lower_a_version(rig, pins):
    rig.serve(list(range(20)))
    pins.pin(ask(range(20), version=3))
    with pytest.raises(ConflictError, match="version 3"):
        pins.renew(renewal(2, 3))


def test_a_new_version_moves_the_marks(rig, pins):
    first, second = list(range(20)), list(range(300, 320))
    rig.serve(first)
    rig.serve(second)
    pins.pin(ask(first))
    pins.pin(ask(second, version=2))
    flood(rig)
    assert (rig.hit(first), rig.hit(second)) == (0, 20)


def test_what_does_not_fit_is_refused_with_the_numbers(rig, pins):
    prompts = [[base + i for i in range(CHUNK_TOKENS)] for base in range(0, 900, 100)]
    for prompt in prompts:
        rig.serve(prompt)
    for number, prompt in enumerate(prompts[:8]):
        pins.pin(ask(prompt, f"p{number}"))
    with pytest.raises(CapacityError) as refused:
        pins.pin(ask(prompts[8], "p8"))
    assert refused.value.used_bytes == refused.value.limit_bytes == 8 * SLOT_BYTES
    assert refused.value.asked_bytes == SLOT_BYTES
    assert pins.report("p8") is None
    # The same chunk once more costs nothing, and a full cache still stores.
    pins.pin(ask(prompts[0], "again"))
    fresh = [7000 + i for i in range(32)]
    rig.serve(fresh)
    assert rig.hit(fresh) == 32
    assert all(rig.hit(prompt) == CHUNK_TOKENS for prompt in prompts[:8])


def test_an_owners_quota_charges_each_pin_in_full():
    overrides = {"pin_owner_quota_bytes": 2 * SLOT_BYTES}
    with Rig(chunks=10, overrides=overrides) as rig:
        pins = rig.engine.tiers.pins
        tokens = list(range(CHUNK_TOKENS))
        rig.serve(tokens)
        pins.pin(ask(tokens, "a", owner="o"))
        pins.pin(ask(tokens, "b", owner="o"))
        with pytest.raises(CapacityError, match="owner o"):
            pins.pin(ask(tokens, "c", owner="o"))
        pins.pin(ask(tokens, "a", owner="o", version=2))
        pins.pin(ask(tokens, "d", owner="other"))


def test_an_unknown_location_names_the_known_ones(pins):
    with pytest.raises(UnknownNameError, match=MEMORY):
        pins.pin(ask(range(5), location="LocalDiskBackend"))


def test_on_missing_fail_refuses_and_leaves_nothing(rig, pins):
    rig.serve(list(range(10)))
    with pytest.raises(NotCachedError, match="10 of 20"):
        pins.pin(ask(range(20), on_missing=OnMissing.FAIL))
    assert rig.engine.tiers.memory.residents.pinned_bytes == 0


def test_a_reservation_is_charged_now_and_marked_when_the_chunk_comes(rig, pins):
    tokens = list(range(40))
    report = pins.pin(ask(tokens, on_missing=OnMissing.RESERVE))
    assert report.state is PinState.PENDING
    assert report.reserved_bytes == 3 * SLOT_BYTES
    rig.serve(tokens)
    report = pins.report("p")
    assert (report.state, report.tokens_pinned) == (PinState.ACTIVE, 40)
    assert report.reserved_bytes == 0
    flood(rig)
    assert rig.hit(tokens) == 40


def test_a_reservation_that_does_not_fit_is_refused(pins):
    with pytest.raises(CapacityError):
        pins.pin(ask(range(9 * CHUNK_TOKENS), on_missing=OnMissing.RESERVE))


def test_force_takes_the_bytes_and_not_the_pin(rig, pins):
    tokens = list(range(20))
    rig.serve(tokens)
    pins.pin(ask(tokens))
    tiers = rig.engine.tiers
    assert tiers.drop(MEMORY, tiers.keys(MEMORY), force=False) == 0
    assert tiers.drop(MEMORY, tiers.keys(MEMORY), force=True) == 20
    report = pins.report("p")
    assert (report.state, report.tokens_pinned) == (PinState.DEGRADED, 0)
    rig.serve(tokens)
    assert pins.report("p").state is PinState.ACTIVE


def test_pins_follow_the_longer_entry_that_takes_a_tails_place(rig, pins):
    rig.serve(list(range(5)))
    pins.pin(ask(range(5)))
    rig.serve(list(range(30)))
    assert pins.report("p").tokens_pinned == 5
    flood(rig)
    assert rig.hit(list(range(5))) == 5
    assert pins.unpin("p", 1) == 5
    assert rig.engine.tiers.memory.residents.pinned_bytes == 0


def test_pins_of_unlike_scopes_are_unlike(rig, pins):
    tokens = list(range(20))
    rig.serve(tokens, Scope.of(cache_salt="a"))
    assert pins.pin(ask(tokens)).tokens_pinned == 0
    assert pins.pin(ask(tokens, "q", scope=Scope.of(cache_salt="a"))).tokens_pinned == 20


def test_a_reset_makes_pins_pending_until_the_prompt_is_computed_again(rig, pins):
    tokens = list(range(20))
    rig.serve(tokens)
    pins.pin(ask(tokens))
    rig.engine.reset()
    report = pins.report("p")
    assert (report.state, report.tokens_pinned) == (PinState.PENDING, 0)
    rig.serve(tokens)
    assert pins.report("p").state is PinState.ACTIVE
    flood(rig)
    assert rig.hit(tokens) == 20


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(pins, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(pins, "_clock", clock)
    return clock


def test_a_pin_ends_at_its_time(rig, pins, clock):
    tokens = list(range(20))
    rig.serve(tokens)
    pins.pin(ask(tokens, ttl_seconds=10))
    clock.now = 9.9
    assert pins.expire() == []
    assert pins.report("p").ttl_seconds == pytest.approx(0.1)
    clock.now = 10.0
    assert pins.expire() == ["p"]
    assert pins.report("p") is None
    flood(rig)
    assert rig.hit(tokens) == 0


@pytest.mark.parametrize(("renew", "ended"), [(Renew.FIXED, ["p"]), (Renew.ON_HIT, [])])
def test_a_hit_renews_the_pins_that_ask_for_it(rig, pins, clock, renew, ended):
    tokens = list(range(20))
    rig.serve(tokens)
    pins.pin(ask(tokens, ttl_seconds=10, renew=renew))
    clock.now = 9.0
    rig.hit(tokens)
    clock.now = 11.0
    assert pins.expire() == ended
    clock.now = 19.0
    pins.expire()
    assert pins.report("p") is None


@pytest.mark.parametrize("loss", [False, True])
def test_a_pin_that_is_asked_for_again_is_what_a_new_one_would_be(loss):
    tokens = list(range(40))
    changed = {
        "version": 2,
        "ttl_seconds": 60.0,
        "renew": Renew.ON_HIT,
        "labels": {"why": "kept"},
        "on_missing": OnMissing.RESERVE,
    }
    outcomes = []
    for first in [None, ask(tokens, ttl_seconds=5.0), ask(tokens, on_missing=OnMissing.RESERVE)]:
        with Rig(chunks=10) as rig:
            pins, residents = rig.engine.tiers.pins, rig.engine.tiers.memory.residents
            rig.serve(tokens)
            if first is not None:
                pins.pin(first)
            reports = [pins.pin(ask(tokens, **changed))]
            if loss:
                rig.engine.tiers.drop(MEMORY, rig.engine.tiers.keys(MEMORY), force=True)
                reports.append(pins.report("p"))
            ((request, _),) = pins.held(["p"])
            plain = [
                msgspec.structs.replace(r, ttl_seconds=round(r.ttl_seconds))
                for r in [*reports, request]
            ]
            outcomes.append((plain, residents.pinned_bytes, residents.reserved_bytes))
            assert pins.unpin("p", 2) == (0 if loss else 40)
            assert (residents.pinned_bytes, residents.reserved_bytes) == (0, 0)
    assert outcomes[1:] == outcomes[:1] * 2
