"""The pool hands out slots that never overlap, and fails only when it must."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lmcache_core.errors import LMCacheError
from lmcache_core.memory import HostPool, Slot

ALIGNMENT = 64


class PoolMachine(RuleBasedStateMachine):
    """A pool beside a plain list of intervals."""

    granules = 97

    def __init__(self) -> None:
        super().__init__()
        # A last part below the alignment is no room.
        self.pool = HostPool(self.granules * ALIGNMENT + ALIGNMENT - 1, ALIGNMENT)
        self.taken: list[Slot] = []

    def gaps(self) -> list[int]:
        """Lengths of the free runs, joined."""
        at, gaps = 0, []
        for slot in sorted(self.taken, key=lambda slot: slot.offset):
            gaps.append(slot.offset - at)
            at = slot.offset + slot.nbytes
        return [gap for gap in [*gaps, self.granules * ALIGNMENT - at] if gap]

    @rule(nbytes=st.integers(1, 40 * ALIGNMENT))
    def allocate(self, nbytes: int) -> None:
        rounded = -(-nbytes // ALIGNMENT) * ALIGNMENT
        fits = rounded <= max(self.gaps(), default=0)
        slot = self.pool.allocate(nbytes)
        assert (slot is not None) == fits
        if slot is None:
            return
        assert slot.nbytes == rounded
        assert slot.offset % ALIGNMENT == 0
        assert 0 <= slot.offset <= self.granules * ALIGNMENT - slot.nbytes
        for other in self.taken:
            assert slot.offset + slot.nbytes <= other.offset or (
                other.offset + other.nbytes <= slot.offset
            )
        self.taken.append(slot)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        slot = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
        self.pool.free(slot)
        with pytest.raises(LMCacheError, match="freed"):
            self.pool.free(slot)

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), by=st.sampled_from([-ALIGNMENT, ALIGNMENT]))
    def free_what_was_never_taken(self, data: st.DataObject, by: int) -> None:
        slot = data.draw(st.sampled_from(self.taken))
        with pytest.raises(LMCacheError, match="freed"):
            self.pool.free(Slot(slot.offset, slot.nbytes + by))

    @invariant()
    def accounts_are_exact(self) -> None:
        gaps = self.gaps()
        assert self.pool.used_bytes == sum(slot.nbytes for slot in self.taken)
        assert self.pool.free_bytes == sum(gaps)
        assert self.pool.capacity_bytes == self.granules * ALIGNMENT
        assert self.pool.largest_free_bytes == max(gaps, default=0)
        assert len(self.pool) == len(self.taken)
        expected = 1 - max(gaps) / sum(gaps) if gaps else 0.0
        assert self.pool.fragmentation == pytest.approx(expected)

    def teardown(self) -> None:
        for slot in self.taken:
            self.pool.free(slot)
        whole = self.pool.allocate(self.pool.capacity_bytes)
        assert whole == Slot(0, self.pool.capacity_bytes)


class LargePoolMachine(PoolMachine):
    """Sizes that need every level of the pool's bitmaps."""

    granules = 5_000_011

    @rule(exponent=st.integers(0, 22), by=st.integers(-2, 2))
    def allocate_large(self, exponent: int, by: int) -> None:
        self.allocate(max(1, (1 << exponent) + by) * ALIGNMENT)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLargePool = LargePoolMachine.TestCase
TestLargePool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_full_pool_gives_the_freed_slot_to_the_next_of_its_size() -> None:
    """An odd size, so that rounding it into a class would lose the freed run."""
    pool = HostPool(1 << 30)
    nbytes = (33 << 20) + 4096
    slots = []
    while (slot := pool.allocate(nbytes)) is not None:
        slots.append(slot)
    for slot in slots[::3]:
        pool.free(slot)
        assert pool.allocate(nbytes) == slot


def test_the_slot_freed_last_is_the_one_whose_pages_are_committed() -> None:
    pool = HostPool(64 << 20)
    slots = [pool.allocate(1 << 20) for _ in range(8)]
    for slot in (slots[1], slots[5], slots[3]):
        assert slot is not None
        pool.free(slot)
    assert pool.allocate(1 << 20) == slots[3]


@pytest.mark.parametrize("alignment", [0, -8, 3, 4097])
def test_an_alignment_that_is_no_power_of_two_is_refused(alignment: int) -> None:
    with pytest.raises(LMCacheError, match=f"{alignment}; it must be a power of two"):
        HostPool(1 << 20, alignment)


def test_a_region_below_one_slot_is_refused() -> None:
    with pytest.raises(LMCacheError, match="no room for one slot"):
        HostPool(4095)


@pytest.mark.parametrize("nbytes", [0, -1, -4096])
def test_nothing_is_no_slot(nbytes: int) -> None:
    pool = HostPool(1 << 20)
    with pytest.raises(LMCacheError, match="least is 1 byte"):
        pool.allocate(nbytes)
    assert pool.used_bytes == 0
