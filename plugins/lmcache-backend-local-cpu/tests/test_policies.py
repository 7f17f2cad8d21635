"""The order in which keys go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcache_backend_local_cpu.policies import LRU, MRU
from lmcache_core.api import EvictionPolicy

KEYS = [bytes([n]) * 32 for n in range(6)]

steps = st.lists(
    st.tuples(st.sampled_from(["admit", "touch", "remove", "evict"]), st.sampled_from(KEYS))
)


@pytest.mark.parametrize(("policy", "end"), [(LRU, 0), (MRU, -1)])
@given(steps=steps)
def test_the_victim_is_at_its_end_of_the_order_of_use(
    policy: type[EvictionPolicy], end: int, steps: list[tuple[str, bytes]]
) -> None:
    ours = policy()
    order: list[bytes] = []
    for what, key in steps:
        if what == "evict":
            assert ours.victim() == (order[end] if order else None)
            if order:
                ours.remove(order.pop(end))
        elif what == "admit":
            if key not in order:
                ours.admit(key)
                order.append(key)
        else:
            getattr(ours, what)(key)
            if key in order:
                order.remove(key)
                if what == "touch":
                    order.append(key)
        assert len(ours) == len(order)
        assert ours.victim() == (order[end] if order else None)
