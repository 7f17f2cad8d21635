"""One engine's events, in order and out of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcache_core.api.messages import Events
from lmcache_core.controller import stream as stream_module
from lmcache_core.controller.stream import EventStream, short_key

LOCATIONS = ("memory", "disk")


def key(number: int) -> bytes:
    return number.to_bytes(32, "little")


def batch(
    sequence: int,
    admitted: tuple[int, ...] = (),
    evicted: tuple[int, ...] = (),
    *,
    location: str = "memory",
    snapshot: bool = False,
    last: bool = False,
) -> Events:
    return Events(
        instance_id="e",
        incarnation=1,
        sequence=sequence,
        location=location,
        admitted=b"".join(map(key, admitted)),
        evicted=b"".join(map(key, evicted)),
        snapshot=snapshot,
        last=last,
    )


def started(sequence: int = 0) -> EventStream:
    """A stream in step with an engine that holds nothing."""
    stream = EventStream()
    assert stream.start(sequence, LOCATIONS)
    stream.take(batch(sequence + 1, snapshot=True))
    stream.take(batch(sequence + 2, location="disk", snapshot=True, last=True))
    assert not stream.wants_snapshot
    return stream


def held(stream: EventStream, location: str = "memory") -> set[int]:
    return stream.held[location]


def test_batches_in_order_are_applied() -> None:
    stream = started()
    stream.take(batch(3, (1, 2)))
    stream.take(batch(4, (3,), (1,)))
    assert held(stream) == {2, 3}
    assert not stream.wants_snapshot


def test_a_batch_that_comes_twice_is_applied_once() -> None:
    stream = started()
    stream.take(batch(3, (1,)))
    stream.take(batch(4, (), (1,)))
    stream.take(batch(3, (1,)))
    assert held(stream) == set()
    assert stream.gaps == 0


def test_after_a_gap_nothing_older_is_believed_until_a_snapshot() -> None:
    stream = started()
    stream.take(batch(3, (1,)))
    stream.take(batch(5, (2,)))
    assert stream.wants_snapshot
    assert held(stream) == {2}
    stream.take(batch(6, (1, 2), snapshot=True))
    assert held(stream) == {2}, "half a snapshot is not shown"
    stream.take(batch(7, (9,), location="disk", snapshot=True, last=True))
    assert (held(stream), held(stream, "disk")) == ({1, 2}, {9})
    assert not stream.wants_snapshot


def test_a_snapshot_that_lost_its_beginning_is_not_believed() -> None:
    stream = started()
    # Number 3, the snapshot's first part, is lost.
    stream.take(batch(4, (2,), snapshot=True))
    assert stream.is_receiving
    stream.take(batch(5, location="disk", snapshot=True, last=True))
    assert stream.wants_snapshot
    assert not stream.is_receiving
    stream.take(batch(6, (1, 2), snapshot=True))
    stream.take(batch(7, location="disk", snapshot=True, last=True))
    assert held(stream) == {1, 2}
    assert not stream.wants_snapshot


def test_a_snapshot_that_lost_its_middle_is_not_believed() -> None:
    stream = started()
    stream.take(batch(3, (1,), snapshot=True))
    stream.take(batch(5, location="disk", snapshot=True, last=True))
    assert stream.wants_snapshot
    assert held(stream) == set()


def test_a_heartbeat_shows_a_gap_at_the_end() -> None:
    stream = started()
    stream.take(batch(3, (1,)))
    stream.note(3)
    assert not stream.wants_snapshot
    stream.note(4)
    assert stream.wants_snapshot
    assert held(stream) == set()


def test_registering_again_in_step_needs_no_snapshot() -> None:
    stream = started()
    stream.take(batch(3, (1,)))
    assert not stream.start(3, LOCATIONS)
    assert held(stream) == {1}
    assert stream.start(4, LOCATIONS)
    assert held(stream) == set()


@pytest.mark.parametrize("packed", [b"x", bytes(33)])
def test_keys_of_a_wrong_length_are_a_gap(packed: bytes) -> None:
    stream = started()
    stream.take(
        Events(instance_id="e", incarnation=1, sequence=3, location="memory", admitted=packed)
    )
    assert stream.wants_snapshot
    assert held(stream) == set()


def test_a_location_that_was_not_announced_is_a_gap() -> None:
    stream = started()
    stream.take(batch(3, (1,), location="gpu"))
    assert stream.wants_snapshot
    assert set(stream.held) == set(LOCATIONS)


def test_what_one_engine_may_claim_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "MAX_KEYS", 10)
    stream = started()
    for number in range(30):
        stream.take(batch(3 + number, (number,)))
        assert len(held(stream)) <= 10


def test_a_key_is_kept_in_few_bytes() -> None:
    assert short_key(b"\xff" * 32) == 2**60 - 1
    assert (2**60 - 1).__sizeof__() == 32


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.booleans()), max_size=40))
def test_it_never_says_more_than_the_engine_holds(steps: list[tuple[bool, int, bool]]) -> None:
    """Batches get lost at random; what is shown is always a part of what is held."""
    stream, truth, sequence = started(), set[int](), 2
    for admit, number, lost in steps:
        if admit:
            truth.add(number)
        else:
            truth.discard(number)
        sequence += 1
        event = batch(sequence, (number,) if admit else (), () if admit else (number,))
        if not lost:
            stream.take(event)
            assert held(stream) <= truth
        if stream.wants_snapshot:
            sequence += 2
            stream.take(batch(sequence - 1, tuple(truth), snapshot=True))
            stream.take(batch(sequence, location="disk", snapshot=True, last=True))
    stream.note(sequence)
    assert held(stream) == (set() if stream.wants_snapshot else truth)
