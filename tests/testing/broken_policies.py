"""One broken eviction policy for each check, and good ones to compare them with.

See ``broken_backends.py``; ``test_kits.py`` runs the kit over all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest
from sortedcontainers import SortedDict

from lmcache_core.api import EvictionPolicy
from lmcache_core.testing import EvictionPolicyTests
from lmcache_core.testing.material import sample_key


class Good(EvictionPolicy):
    """Least recently used, by a number that each use gives anew; held keys keep theirs."""

    def __init__(self):
        self.count = 0
        self.numbers = {}
        self.held = set()
        self.free = SortedDict()

    def number(self, key):
        self.count += 1
        self.numbers[key] = self.count

    def admit(self, key):
        self.number(key)
        self.free[self.numbers[key]] = key

    def touch(self, key):
        if key in self.held:
            self.number(key)
        elif key in self.numbers:
            del self.free[self.numbers[key]]
            self.number(key)
            self.free[self.count] = key

    def remove(self, key):
        number = self.numbers.pop(key, None)
        if number is not None and key not in self.held:
            del self.free[number]
        self.held.discard(key)

    def victim(self):
        return self.free.peekitem(0)[1] if self.free else None

    def __len__(self):
        return len(self.free)

    def hold(self, key):
        self.held.add(key)
        del self.free[self.numbers[key]]

    def release(self, key):
        self.held.remove(key)
        self.free[self.numbers[key]] = key


class Fifo(Good):
    """A use changes nothing."""

    def touch(self, key):
        pass


class Suite(EvictionPolicyTests):
    __test__ = False
    policy_type: ClassVar[type[EvictionPolicy]] = Good

    @pytest.fixture
    def make_policy(self) -> Callable[[], EvictionPolicy]:
        return self.policy_type


class TestGood(Suite):
    __test__ = True


class TestFifo(Suite):
    __test__ = True
    policy_type = Fifo


SUMMARY = "test_a_long_walk_agrees_with_plain_sets"
"""Makes every call, and so finds the faults of other checks too."""

BROKEN: dict[str, str] = {}
"""The check that each suite is to fail, by the suite's name."""


def broken(check: str) -> Callable[[type[Good]], type[Good]]:
    """Make a suite that is to fail ``check`` and at most ``SUMMARY`` beside it."""

    def make(policy: type[Good]) -> type[Good]:
        name = f"Test{policy.__name__}"
        BROKEN[name] = check
        globals()[name] = type(name, (TestGood,), {"policy_type": policy, "__module__": __name__})
        return policy

    return make


@broken("test_a_policy_that_knows_no_key_has_no_victim")
class NamesNothing(Good):
    def victim(self):
        return super().victim() if self.count else b""


@broken("test_len_counts_what_may_be_evicted")
class CountsTheHeld(Good):
    def __len__(self):
        # So that it shows where a key is held while others are not.
        return len(self.numbers) if len(self.numbers) == 3 and self.count == 3 else len(self.free)


@broken("test_asking_for_the_victim_changes_nothing")
class TakesTurns(Good):
    asked = 0

    def victim(self):
        if len(self.free) != 5 or self.count != 6:
            return super().victim()
        self.asked += 1
        return self.free.peekitem(self.asked % 2)[1]


@broken("test_every_key_is_the_victim_once")
class LosesTheTwentieth(Good):
    def victim(self):
        return None if self.count == 20 and len(self.free) == 1 else super().victim()


@broken("test_a_touched_key_stays_known")
class LosesWhatIsTouchedTwice(Good):
    last = None

    def touch(self, key):
        super().touch(key)
        if key == self.last and len(self.numbers) == 4:
            self.remove(key)
        self.last = key


@broken("test_a_removed_key_is_no_victim")
class NamesTheRemoved(Good):
    def remove(self, key):
        if len(self.free) == 4 and key == sample_key(5):
            return
        super().remove(key)


@broken("test_unknown_keys_are_ignored")
class MindsUnknownKeys(Good):
    def remove(self, key):
        if not self.count:
            raise KeyError(key)
        super().remove(key)


@broken("test_a_removed_key_can_be_admitted_again")
class KeepsTombstones(Good):
    def __init__(self):
        super().__init__()
        self.gone = set()

    def admit(self, key):
        if self.gone != {key} or self.count != 2:
            super().admit(key)

    def remove(self, key):
        super().remove(key)
        if key not in self.held and self.count < 20:
            self.gone.add(key)

    def evict(self, key):
        Good.remove(self, key)

    def hold(self, key):
        self.gone.add(b"held")
        super().hold(key)


@broken("test_an_evicted_key_can_be_admitted_again")
class RefusesGhosts(Good):
    def __init__(self):
        super().__init__()
        self.ghosts = set()

    def evict(self, key):
        super().evict(key)
        if self.count < 20:
            self.ghosts.add(key)

    def admit(self, key):
        if len(self.ghosts) == 8 and self.count == 8:
            self.ghosts.clear()
            return
        super().admit(key)


# what is held


@broken("test_a_held_key_is_no_victim")
class NamesTheHeld(Good):
    def victim(self):
        if not self.free and len(self.held) == 2 and self.count == 5:
            return next(iter(self.held))
        return super().victim()


@broken("test_a_released_key_is_a_victim_again")
class ReleasesTwice(Good):
    releases = 0

    def release(self, key):
        self.releases += 1
        if self.releases == 3 and self.count == 1:
            self.remove(key)
        else:
            super().release(key)


@broken("test_a_held_key_can_be_touched")
class ReleasesWhatIsTouched(Good):
    def touch(self, key):
        if key in self.held and self.count == 2:
            super().release(key)
        super().touch(key)

    def release(self, key):
        if key in self.held:
            super().release(key)


@broken("test_a_held_key_can_be_removed")
class HoldsBeyondRemoval(Good):
    def remove(self, key):
        if key in self.held and len(self.numbers) == 2:
            del self.numbers[key]
        else:
            super().remove(key)

    def admit(self, key):
        if key in self.held:
            self.number(key)
        else:
            super().admit(key)


@broken("test_that_a_key_was_held_does_not_show")
class ReleasesAsNew(Good):
    def release(self, key):
        self.number(key)
        super().release(key)


# any order of calls, time and memory


@broken(SUMMARY)
class LosesAKeyInTheLongRun(Good):
    def touch(self, key):
        super().touch(key)
        if self.count == 200 and len(self.numbers) < 25:
            self.remove(key)


@broken("test_no_call_takes_longer_among_more_keys")
class LooksAtEveryKey(Good):
    def touch(self, key):
        max(self.numbers, default=None)
        super().touch(key)


@broken("test_keys_that_are_gone_take_no_memory")
class RemembersForEver(Good):
    def __init__(self):
        super().__init__()
        self.history = {}

    def evict(self, key):
        super().evict(key)
        self.history[key] = self.count
