"""Each policy does what its plain model does, whatever is held."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcache_eviction_policies.lfu import LFU
from lmcache_eviction_policies.s3fifo import S3FIFO

KEYS = [bytes([n]) * 32 for n in range(12)]
OPS = ["admit", "touch", "touch", "remove", "evict", "evict", "hold", "release"]

steps = st.lists(st.tuples(st.sampled_from(OPS), st.sampled_from(KEYS)), max_size=120)


def apply(policy, model, op, key):
    """Take a step with both, where the contract allows it."""
    known, held = key in model.known, key in model.held
    if op == "evict":
        key = model.victim()
        assert policy.victim() == key
        assert policy.victim() == key, "asked again, it names another"
        if key is None:
            return
    elif (
        (op == "admit" and known)
        or (op == "hold" and (held or not known))
        or (op == "release" and not held)
    ):
        return
    getattr(policy, op)(key)
    getattr(model, op)(key)
    assert len(policy) == len(model)


def drain(policy, model):
    """All keys in the order in which they go, held ones last."""
    order = []
    while (key := model.victim()) is not None:
        assert policy.victim() == key
        order.append(key)
        policy.evict(key)
        model.evict(key)
    assert policy.victim() is None
    assert len(policy) == 0
    return order


@given(steps=steps)
def test_it_names_what_its_model_names(pair, steps):
    make, make_model = pair
    policy, model = make(), make_model()
    for op, key in steps:
        apply(policy, model, op, key)
    drain(policy, model)
    for key in sorted(model.held):
        policy.release(key)
        model.release(key)
    drain(policy, model)


def test_it_does_so_with_thousands_of_keys(pair):
    """Enough for the tree of places to have several levels, and for long sweeps."""
    make, make_model = pair
    draw = random.Random(5)
    policy, model = make(), make_model()
    keys = [draw.randbytes(32) for _ in range(300)]
    for _ in range(12_000):
        op = draw.choice([*OPS, "touch", "admit", "admit"])
        apply(policy, model, op, draw.choice(keys))
    drain(policy, model)


def test_that_a_key_was_held_does_not_show(pair):
    make, _ = pair
    plain, holding = make(), make()
    for key in KEYS:
        plain.admit(key)
        holding.admit(key)
        if key in KEYS[::3]:
            holding.hold(key)
    for key in KEYS[3:6] * 2:
        plain.touch(key)
        holding.touch(key)
    for key in KEYS[::3]:
        holding.release(key)
    for _ in KEYS:
        victim = plain.victim()
        assert holding.victim() == victim
        plain.evict(victim)
        holding.evict(victim)


def test_old_uses_fade_with_lfu():
    policy = LFU()
    policy.admit(KEYS[0])
    for _ in range(5):
        policy.touch(KEYS[0])
    for n in range(100):
        policy.admit(bytes([n]) * 31)
        if policy.victim() == KEYS[0]:
            assert n > 4
            return
        policy.evict(policy.victim())
    pytest.fail("five uses outlived a hundred keys")


@pytest.mark.parametrize(("leave", "last"), [("evict", KEYS[0]), ("remove", KEYS[-1])])
def test_s3_fifo_knows_what_it_evicted_and_not_what_was_dropped(leave, last):
    policy = S3FIFO()
    for key in KEYS[:-1]:
        policy.admit(key)
    assert policy.victim() == KEYS[0]
    getattr(policy, leave)(KEYS[0])
    policy.admit(KEYS[0])
    policy.admit(KEYS[-1])
    order = []
    while (key := policy.victim()) is not None:
        order.append(key)
        policy.evict(key)
    # The main line, where one with a ghost begins, is the last to be emptied.
    assert order[-1] == last


def test_ghosts_are_bounded_by_what_is_known():
    policy = S3FIFO()
    for n in range(5000):
        policy.admit(n.to_bytes(32))
        if len(policy) > 10:
            policy.evict(policy.victim())
        assert len(policy._ghosts) <= 11
    for n in range(5000):
        policy.remove(n.to_bytes(32))
    assert not policy._ghosts
