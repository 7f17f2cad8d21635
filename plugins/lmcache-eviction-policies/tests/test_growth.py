"""No policy keeps its keys in one table, which would be copied to grow while a step waits."""

from __future__ import annotations

from lmcache_core.testing.material import sample_key
from lmcache_core.testing.tables import largest_table

KEYS = 1 << 13
MOST = KEYS // 4
"""Keys in one table; each kind of table that is grown here has at least twice as many."""


def test_tables_stay_short_whatever_is_held_and_comes_back(pair):
    make, _ = pair
    policy = make()
    keys = [sample_key(number) for number in range(KEYS)]
    for key in keys:
        policy.admit(key)
    for key in keys[::2]:
        policy.touch(key)
    for key in keys[::2]:
        policy.hold(key)
    assert largest_table(policy) <= MOST
    for key in keys[::2]:
        policy.release(key)
    assert len(policy) == KEYS
    assert largest_table(policy) <= MOST
    for number in range(KEYS, 2 * KEYS):
        # Half of what is known is evicted, which some policies remember.
        policy.admit(sample_key(number))
    for _ in range(KEYS):
        policy.evict(policy.victim())
    assert len(policy) == KEYS
    assert largest_table(policy) <= MOST


def test_each_key_is_named_once_however_few_a_part_of_the_order_has_left(pair):
    make, _ = pair
    policy = make()
    keys = [sample_key(number) for number in range(KEYS)]
    for key in keys:
        policy.admit(key)
    for key in (key for number, key in enumerate(keys) if number % 64):
        policy.touch(key)
    victims = []
    while (victim := policy.victim()) is not None:
        victims.append(victim)
        policy.evict(victim)
    assert sorted(victims) == sorted(keys)
