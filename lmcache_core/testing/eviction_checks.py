"""What every eviction policy is checked for."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Callable, Iterable

from lmcache_core.api import EvictionPolicy
from lmcache_core.keys import Key
from lmcache_core.testing.material import sample_key

MakePolicy = Callable[[], EvictionPolicy]

FEW, MANY = 100, 25_600
SLOWER = 8
"""How much slower a call may be among ``MANY`` keys than among ``FEW``; O(n) is 256 times."""


class EvictionChecks:
    """The promises of a policy of any order, one check for each."""

    def test_a_policy_that_knows_no_key_has_no_victim(self, policy: EvictionPolicy) -> None:
        assert policy.victim() is None
        assert len(policy) == 0

    def test_len_counts_what_may_be_evicted(self, policy: EvictionPolicy) -> None:
        admit(policy, range(3))
        assert len(policy) == 3
        policy.hold(sample_key(1))
        assert len(policy) == 2
        policy.release(sample_key(1))
        assert len(policy) == 3
        policy.remove(sample_key(0))
        assert len(policy) == 2

    def test_asking_for_the_victim_changes_nothing(self, policy: EvictionPolicy) -> None:
        admit(policy, range(5))
        policy.touch(sample_key(3))
        victim = policy.victim()
        assert [policy.victim() for _ in range(10)] == [victim] * 10
        assert len(policy) == 5

    def test_every_key_is_the_victim_once(self, policy: EvictionPolicy) -> None:
        admit(policy, range(20))
        assert sorted(drain(policy)) == sorted(map(sample_key, range(20)))

    def test_a_touched_key_stays_known(self, policy: EvictionPolicy) -> None:
        admit(policy, range(4))
        for number in (1, 1, 3, 0):
            policy.touch(sample_key(number))
        assert len(policy) == 4
        assert sorted(drain(policy)) == sorted(map(sample_key, range(4)))

    def test_a_removed_key_is_no_victim(self, policy: EvictionPolicy) -> None:
        admit(policy, range(6))
        for number in (0, 3, 5):
            policy.remove(sample_key(number))
        assert sorted(drain(policy)) == sorted(map(sample_key, (1, 2, 4)))

    def test_unknown_keys_are_ignored(self, policy: EvictionPolicy) -> None:
        policy.remove(sample_key(9))
        policy.touch(sample_key(9))
        admit(policy, [1])
        policy.touch(sample_key(9))
        policy.remove(sample_key(9))
        assert (len(policy), policy.victim()) == (1, sample_key(1))

    def test_a_removed_key_can_be_admitted_again(self, policy: EvictionPolicy) -> None:
        admit(policy, [1, 2])
        policy.remove(sample_key(1))
        admit(policy, [1])
        assert sorted(drain(policy)) == sorted(map(sample_key, (1, 2)))

    def test_an_evicted_key_can_be_admitted_again(self, policy: EvictionPolicy) -> None:
        admit(policy, range(8))
        gone = drain(policy)
        for key in gone:
            policy.admit(key)
        assert sorted(drain(policy)) == sorted(gone)

    # what is held

    def test_a_held_key_is_no_victim(self, policy: EvictionPolicy) -> None:
        admit(policy, range(5))
        for number in (0, 4):
            policy.hold(sample_key(number))
        assert sorted(drain(policy)) == sorted(map(sample_key, (1, 2, 3)))
        assert policy.victim() is None

    def test_a_released_key_is_a_victim_again(self, policy: EvictionPolicy) -> None:
        admit(policy, [1])
        for _ in range(3):
            policy.hold(sample_key(1))
            assert policy.victim() is None
            policy.release(sample_key(1))
            assert policy.victim() == sample_key(1)

    def test_a_held_key_can_be_touched(self, policy: EvictionPolicy) -> None:
        admit(policy, [1, 2])
        policy.hold(sample_key(1))
        policy.touch(sample_key(1))
        assert (len(policy), policy.victim()) == (1, sample_key(2))
        policy.release(sample_key(1))
        assert sorted(drain(policy)) == sorted(map(sample_key, (1, 2)))

    def test_a_held_key_can_be_removed(self, policy: EvictionPolicy) -> None:
        admit(policy, [1, 2])
        policy.hold(sample_key(1))
        policy.remove(sample_key(1))
        assert drain(policy) == [sample_key(2)]
        admit(policy, [1])
        assert drain(policy) == [sample_key(1)]

    def test_that_a_key_was_held_does_not_show(self, make_policy: MakePolicy) -> None:
        plain, held = make_policy(), make_policy()
        for policy in (plain, held):
            admit(policy, range(12))
        for number in (2, 5, 11):
            held.hold(sample_key(number))
        for policy in (plain, held):
            for number in (5, 7, 5, 0):
                policy.touch(sample_key(number))
            admit(policy, range(12, 15))
        for number in (11, 2, 5):
            held.release(sample_key(number))
        assert drain(held) == drain(plain)

    # any order of calls, time and memory

    def test_a_long_walk_agrees_with_plain_sets(self, policy: EvictionPolicy) -> None:
        choice = random.Random(1)
        free: set[int] = set()
        held: set[int] = set()
        numbers = {sample_key(number): number for number in range(24)}
        keys = list(numbers)
        for _ in range(3000):
            number, what = choice.randrange(24), choice.randrange(5)
            key = keys[number]
            if what == 0:
                policy.touch(key)
            elif what == 1 and choice.random() < 0.3:
                policy.remove(key)
                free.discard(number)
                held.discard(number)
            elif what == 2 and free:
                victim = policy.victim()
                assert victim is not None
                assert numbers[victim] in free
                policy.evict(victim)
                free.remove(numbers[victim])
            elif number in free:
                policy.hold(key)
                held.add(number)
                free.remove(number)
            elif number in held:
                policy.release(key)
                free.add(number)
                held.remove(number)
            else:
                policy.admit(key)
                free.add(number)
            assert len(policy) == len(free)
            assert (policy.victim() is None) is (not free)

    def test_no_call_takes_longer_among_more_keys(self, make_policy: MakePolicy) -> None:
        few, many = ready(make_policy(), FEW), ready(make_policy(), MANY)
        seconds = min(work(many, MANY) for _ in range(5))
        assert seconds < SLOWER * min(work(few, FEW) for _ in range(5))

    def test_keys_that_are_gone_take_no_memory(self, policy: EvictionPolicy) -> None:
        def churn(first: int) -> None:
            for number in range(first, first + 5000):
                key = number.to_bytes(32, "little")
                policy.admit(key)
                if number % 3 == 0:
                    policy.touch(key)
                if number % 5 == 0:
                    policy.hold(key)
                    policy.release(key)
                if len(policy) > 64:
                    victim = policy.victim()
                    assert victim is not None
                    policy.evict(victim) if number % 2 else policy.remove(victim)

        churn(0)
        tracemalloc.start()
        try:
            churn(5000)
            before_bytes, _ = tracemalloc.get_traced_memory()
            churn(10_000)
            after_bytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after_bytes - before_bytes < 100_000


def admit(policy: EvictionPolicy, numbers: Iterable[int]) -> None:
    """Admit sample keys in order."""
    for number in numbers:
        policy.admit(sample_key(number))


def drain(policy: EvictionPolicy) -> list[Key]:
    """Evict everything that may be evicted, and tell in which order it went."""
    gone: list[Key] = []
    while (victim := policy.victim()) is not None:
        assert victim not in gone, "an evicted key is the victim again"
        gone.append(victim)
        policy.evict(victim)
    return gone


def ready(policy: EvictionPolicy, count: int) -> EvictionPolicy:
    """Fill a policy, hold a part of what it knows, and use another."""
    admit(policy, range(count))
    for number in range(0, count, 4):
        policy.hold(sample_key(number))
    for number in range(0, count, 3):
        policy.touch(sample_key(number))
    return policy


def work(policy: EvictionPolicy, count: int) -> float:
    """Seconds that some calls of each kind take; the policy knows as many keys afterwards."""
    keys = [sample_key(number) for number in range(1, count, count // 50)]  # odd, so not held
    extra = [sample_key(number) for number in range(count, count + 100)]
    began = time.perf_counter()
    for key in extra:
        policy.admit(key)
        policy.victim()
    for key in keys:
        policy.touch(key)
        policy.hold(key)
        policy.victim()
        policy.release(key)
        policy.touch(key)
        policy.victim()
    for key in extra:
        policy.remove(key)
        policy.victim()
    return time.perf_counter() - began
