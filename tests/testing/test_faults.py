"""Faults are what they say they are, and the kit catches every one of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from lmcache_core.api import BackendContext, Deadline, PutStatus
from lmcache_core.errors import BackendError
from lmcache_core.testing import (
    DictBackend,
    DictConfig,
    FaultyBackend,
    LateBackend,
    conformance,
    faults,
)
from lmcache_core.testing.material import aligned_buffer, sample_frame, sample_key

pytest_plugins = ["pytester"]

PAGE = 4096
SUITE = """
import pytest
from lmcache_core.api import BackendContext
from lmcache_core.testing import DictBackend, DictConfig, FaultyBackend, StorageBackendTests
from lmcache_core.testing import faults

class TestFaulty(StorageBackendTests):
    capabilities = DictBackend.capabilities

    @pytest.fixture
    def make_backend(self):
        context = BackendContext(instance_id="i", tier="t")
        return lambda: FaultyBackend(DictBackend(DictConfig(), context), {fault}, {methods})
"""

CAUGHT = {
    "faults.Raises()": "test_get_returns_what_was_put",
    "faults.Raises(OSError('a bug'))": "test_an_expired_deadline_is_an_answer_or_a_backend_error",
    "faults.Hangs()": "test_stat_tells_lengths",
    "faults.Late()": "test_stat_tells_lengths",
    "faults.Short()": "test_stat_is_aligned",
    "faults.Misaligned()": "test_remove_is_aligned",
    "faults.Truncates()": "test_get_returns_what_was_put",
    "faults.Flips()": "test_get_returns_what_was_put",
    "faults.Flips(0)": "test_readers_see_whole_frames_or_nothing",
}


@pytest.fixture
def good() -> DictBackend:
    backend = DictBackend(DictConfig(), BackendContext(instance_id="i", tier="t"))
    keys, frames = [sample_key(1), sample_key(2)], [sample_frame(n, PAGE) for n in (1, 2)]
    assert backend.put(keys, frames, Deadline(1)) == [PutStatus.STORED] * 2
    return backend


def get(backend: FaultyBackend, numbers: Sequence[int] = (1, 2, 3)) -> tuple[list, list[bytes]]:
    buffers = [aligned_buffer(PAGE) for _ in numbers]
    answers = backend.get([sample_key(n) for n in numbers], buffers, Deadline(1))
    return answers, [bytes(buffer) for buffer in buffers]


def test_every_fault_is_caught_below() -> None:
    """``Fault`` is the root, which nobody plants."""
    planted = {text.partition("(")[0].removeprefix("faults.") for text in CAUGHT}
    kinds = {
        name
        for name, kind in vars(faults).items()
        if isinstance(kind, type) and issubclass(kind, faults.Fault)
    }
    assert planted == kinds - {"Fault"}


@pytest.mark.timeout(0)  # The kit leaves a hang to the timer of whoever has set one.
@pytest.mark.parametrize("fault", CAUGHT)
def test_the_kit_catches_it(
    fault: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "Hangs" in fault or "Late" in fault:
        monkeypatch.setattr(conformance, "CHECK_SECONDS", 0.5)
    check = CAUGHT[fault]
    pytester.makepyfile(SUITE.format(fault=fault, methods="faults.CALLS"))
    pytester.runpytest_inprocess("-q", "-k", check).assert_outcomes(failed=1)
    pytester.makepyfile(SUITE.format(fault=None, methods="()"))
    pytester.runpytest_inprocess("-q", "-k", check).assert_outcomes(passed=1)


def test_a_fault_is_planted_where_it_is_said(good: DictBackend) -> None:
    backend = FaultyBackend(good, faults.Raises(), {"get"})
    assert backend.stat([sample_key(1)], Deadline(1)) == [PAGE]
    with pytest.raises(BackendError, match="planted"):
        get(backend)
    backend.fault = None
    assert get(backend)[0] == [PAGE, PAGE, None]
    with pytest.raises(ValueError, match="no fault can be planted in"):
        FaultyBackend(good, None, {"scan"})


def test_answers_are_short_or_turned_round(good: DictBackend) -> None:
    assert get(FaultyBackend(good, faults.Short()))[0] == [PAGE, PAGE]
    answers, (first, _, last) = get(FaultyBackend(good, faults.Misaligned()))
    assert answers == [PAGE, None, PAGE]
    assert [first, last] == [bytes(sample_frame(number, PAGE)) for number in (2, 1)]


def test_bytes_are_flipped_or_missing(good: DictBackend) -> None:
    whole = bytes(sample_frame(1, PAGE))
    answers, (flipped, _, _) = get(FaultyBackend(good, faults.Flips(7)))
    assert answers == [PAGE, PAGE, None]
    assert [n for n in range(PAGE) if flipped[n] != whole[n]] == [7]
    answers, (cut, _, nothing) = get(FaultyBackend(good, faults.Truncates()))
    assert answers == [PAGE, PAGE, None]
    assert (cut[: PAGE // 2], cut[PAGE // 2 :]) == (whole[: PAGE // 2], bytes(PAGE // 2))
    assert nothing == bytes(PAGE)


def test_a_late_read_writes_when_it_is_let_go(good: DictBackend) -> None:
    backend = LateBackend(good)
    buffer = aligned_buffer(PAGE)
    deadline = Deadline(0.01)
    answers: list[list[int | None]] = []
    reading = threading.Thread(
        target=lambda: answers.append(backend.get([sample_key(1)], [buffer], deadline))
    )
    reading.start()
    assert backend.late.entered.wait(10)
    while not deadline.expired:
        pass
    assert bytes(buffer) == bytes(PAGE)
    backend.late.released.set()
    reading.join()
    assert answers == [[PAGE]]
    assert bytes(buffer) == bytes(sample_frame(1, PAGE))


def test_what_hangs_does_nothing_and_fails_when_it_is_let_go(good: DictBackend) -> None:
    hangs = faults.Hangs()
    hangs.released.set()
    with pytest.raises(BackendError, match="in time"):
        get(FaultyBackend(good, hangs))
    assert hangs.entered.is_set()
