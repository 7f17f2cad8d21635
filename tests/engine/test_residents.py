"""The accounting of a tier, and what its eviction policy gets to see."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcache_core.api import EvictionPolicy
from lmcache_core.engine.chunks.residents import Residents

KEY, OTHER = b"a" * 32, b"b" * 32


class Strict(EvictionPolicy):
    """Holds the core to what it guarantees a policy."""

    def __init__(self):
        self.keys = []

    def admit(self, key):
        assert key not in self.keys
        self.keys.append(key)

    def touch(self, key):
        pass

    def remove(self, key):
        if key in self.keys:
            self.keys.remove(key)

    def victim(self):
        return self.keys[0] if self.keys else None

    def __len__(self):
        return len(self.keys)


@pytest.fixture
def residents():
    residents = Residents(100, Strict())
    residents.add(KEY, 10)
    residents.add(OTHER, 20)
    return residents


def test_a_held_key_is_no_victim_whatever_happens_to_its_marks(residents):
    residents.hold(KEY)
    residents.mark(KEY, "p")
    residents.unmark(KEY, "p")
    assert residents.victim() == OTHER
    residents.let_go(KEY)
    residents.discard(OTHER)
    assert residents.victim() == KEY


def test_a_marked_key_that_is_let_go_is_still_no_victim(residents):
    residents.hold(KEY)
    residents.mark(KEY, "p")
    residents.let_go(KEY)
    assert residents.victim() == OTHER
    residents.unmark(KEY, "p")
    residents.discard(OTHER)
    assert residents.victim() == KEY


def test_marks_count_once_and_go_with_their_key(residents):
    residents.mark(KEY, "p")
    residents.mark(KEY, "q")
    assert residents.pinned_bytes == 10
    assert residents.discard(KEY) == {"p", "q"}
    assert (residents.pinned_bytes, residents.used_bytes) == (0, 20)
    assert residents.discard(KEY) == frozenset()


def test_pins_may_take_their_share_and_not_a_byte_more(residents):
    residents.pin_limit_bytes = 30
    residents.mark(OTHER, "p")
    residents.reserved_bytes = 4
    assert residents.may_pin(6)
    assert not residents.may_pin(7)
    assert residents.unmarked_size(KEY) == 10
    assert residents.unmarked_size(OTHER) == 0
    residents.pin_limit_bytes = 0
    assert residents.may_pin(0)


def test_a_store_that_bounds_itself_bounds_no_pin():
    assert Residents(0, Strict()).may_pin(1 << 60)


class Holding(Strict):
    """Writes down what it is told."""

    def __init__(self):
        super().__init__()
        self.told = []

    def hold(self, key):
        self.told.append(("hold", key))

    def release(self, key):
        self.told.append(("release", key))

    def evict(self, key):
        self.told.append(("evict", key))
        self.keys.remove(key)


def test_a_policy_hears_once_that_a_key_is_held_and_once_that_it_is_not():
    policy = Holding()
    residents = Residents(100, policy)
    residents.add(KEY, 10)
    residents.mark(KEY, "p")
    residents.hold(KEY)
    residents.mark(KEY, "q")
    residents.hold(KEY)
    residents.unmark(KEY, "p")
    residents.unmark(KEY, "q")
    assert policy.told == [("hold", KEY)]
    residents.let_go(KEY)
    residents.let_go(KEY)
    assert policy.told == [("hold", KEY), ("release", KEY)]


def test_a_policy_hears_what_goes_to_make_room_and_what_is_dropped():
    policy = Holding()
    residents = Residents(100, policy)
    residents.add(KEY, 10)
    residents.add(OTHER, 20)
    residents.discard(residents.victim(), evicted=True)
    assert policy.told == [("evict", KEY)]
    residents.discard(OTHER)
    assert policy.told == [("evict", KEY)]
    assert (policy.keys, residents.used_bytes) == ([], 0)


def test_a_policy_that_holds_nothing_is_given_held_keys_as_new_ones():
    residents = Residents(100, Strict())
    residents.add(KEY, 10)
    residents.add(OTHER, 20)
    residents.mark(KEY, "p")
    residents.unmark(KEY, "p")
    assert residents.victim() == OTHER
    residents.discard(OTHER, evicted=True)
    assert residents.victim() == KEY


def test_keys_count_and_go_in_their_order(residents):
    residents.add(b"c" * 32, 3)
    residents.add(b"d" * 32, 4)
    assert (len(residents), residents.used_bytes) == (4, 37)
    order = []
    while (victim := residents.victim()) is not None:
        order.append(victim[:1])
        residents.discard(victim, evicted=True)
    assert order == [b"a", b"b", b"c", b"d"]
    assert residents.used_bytes == 0


def key_of(number):
    return hashlib.sha256(bytes([number])).digest()


def test_keys_side_by_side_are_those_that_are_there():
    residents = Residents(1 << 20, Strict())
    keys = [key_of(number) for number in range(200)]
    for key in keys:
        residents.add(key, 1)
    for key in keys[::3]:
        residents.discard(key)
    left = set(keys) - set(keys[::3])
    assert sorted(residents) == sorted(left)
    assert len(residents) == residents.used_bytes == len(left)


@given(data=st.data())
def test_no_key_is_passed_over_whatever_comes_and_goes_meanwhile(data):
    residents = Residents(1 << 20, Strict())
    sizes = {key_of(number): number + 1 for number in range(20)}
    for key, nbytes in sizes.items():
        residents.add(key, nbytes)
    seen, stayed, place = set(), set(sizes), len(residents)
    while place:
        count = data.draw(st.integers(1, 5))
        packed, place = residents.packed_keys(place, count)
        assert len(packed) <= count * 32
        seen |= {packed[at : at + 32] for at in range(0, len(packed), 32)}
        for number in data.draw(st.lists(st.integers(0, 30), max_size=4)):
            key = key_of(number)
            if key in residents:
                residents.discard(key)
                stayed.discard(key)
                del sizes[key]
            else:
                residents.add(key, number + 1)
                sizes[key] = number + 1
    assert stayed <= seen
    assert {key: residents.size(key) for key in residents} == sizes
    assert residents.used_bytes == sum(sizes.values())


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["mark", "unmark", "discard"]),
            st.sampled_from([KEY, OTHER]),
            st.sampled_from("pqr"),
        )
    )
)
def test_marks_are_those_that_were_put_and_not_taken(steps):
    residents = Residents(100, Strict())
    model = {}
    for step, key, pin_id in steps:
        if key not in residents:
            residents.add(key, 10)
            model[key] = set()
        if step == "mark":
            residents.mark(key, pin_id)
            model[key].add(pin_id)
        elif step == "unmark":
            residents.unmark(key, pin_id)
            model[key].discard(pin_id)
        else:
            assert residents.discard(key) == model.pop(key)
        for other, marks in model.items():
            assert residents.marks(other) == marks
            assert residents.marked(other) == bool(marks)
            assert residents.marks_among(other, {"p", "q"}) == marks & {"p", "q"}
        assert residents.pinned_bytes == 10 * sum(map(bool, model.values()))
    marked = sum(map(bool, model.values()))
    assert len(residents._policy) == len(model) - marked
