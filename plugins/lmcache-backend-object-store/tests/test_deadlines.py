"""A store that is frozen or slow costs its caller one deadline, and nothing comes after it."""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from lmcache_core.api import Deadline, PutStatus
from lmcache_core.errors import DeadlineExceededError
from lmcache_core.testing.material import aligned_buffer, sample_frame, sample_key
from tests.net.proxy import Proxy

MIB = 1 << 20
SHORT = 0.3
SLACK = 2.0
"""For the threads of a busy machine."""


@pytest.fixture
def frozen(server: Any) -> Iterator[Callable[[], None]]:
    """Freeze the server, until the test ends at the latest."""
    yield server.freeze
    server.thaw()


@pytest.fixture
def wire(server: Any) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", server.port) as proxy:
        yield proxy


def seconds_of(call: Callable[[], object]) -> float:
    begin = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        call()
    return time.monotonic() - begin


@pytest.mark.parametrize("nbytes", [8192, 12 * MIB])
def test_a_frozen_server_costs_one_deadline_and_comes_back(
    s3: Any, server: Any, frozen: Callable[[], None], nbytes: int
) -> None:
    frames = s3.open()
    frames.put(1, nbytes)
    frozen()
    calls = [
        lambda: frames.get(1, nbytes, within=SHORT),
        lambda: frames.put(2, nbytes, within=SHORT),
        lambda: frames.stat(1, within=SHORT),
        lambda: frames.backend.remove([sample_key(1)], Deadline(SHORT)),
    ]
    for call in calls:
        assert SHORT * 0.9 < seconds_of(call) < SHORT + SLACK
    server.thaw()
    assert frames.get(1, nbytes) in {bytes(sample_frame(1, nbytes)), None}
    assert frames.put(3, nbytes) is PutStatus.STORED
    assert frames.get(3, nbytes) == bytes(sample_frame(3, nbytes))


def test_nothing_is_written_into_a_buffer_after_the_deadline(
    make_s3: Callable[..., Any], wire: Proxy
) -> None:
    nbytes = 12 * MIB
    frames = make_s3(f"http://127.0.0.1:{wire.port}").open()
    frames.put(1, nbytes)
    wire.bytes_per_second = 8 * MIB
    buffer = aligned_buffer(nbytes)
    with pytest.raises(DeadlineExceededError):
        frames.backend.get([sample_key(1)], [buffer], Deadline(SHORT))
    # It is another's now.
    buffer[:] = bytes(nbytes)
    wire.bytes_per_second = None
    assert frames.get(1, nbytes) == bytes(sample_frame(1, nbytes))
    assert not any(buffer.tobytes())


def test_nobody_holds_a_buffer_or_a_frame_after_the_deadline(
    s3: Any, frozen: Callable[[], None]
) -> None:
    frames = s3.open()
    frames.put(1, MIB)
    frozen()
    for nbytes in (*[MIB] * 20, 12 * MIB):
        region = mmap.mmap(-1, nbytes)
        with memoryview(region) as view, suppress(DeadlineExceededError):
            frames.backend.put([sample_key(2)] * 4, [view] * 4, Deadline(0.05))
        # Raises BufferError where anybody still has it.
        region.close()
    region = mmap.mmap(-1, MIB)
    with memoryview(region) as view, pytest.raises(DeadlineExceededError):
        frames.backend.get([sample_key(1)], [view], Deadline(SHORT))
    region.close()


def test_a_slow_wire_is_waited_for_within_the_deadline(
    make_s3: Callable[..., Any], wire: Proxy
) -> None:
    frames = make_s3(f"http://127.0.0.1:{wire.port}").open()
    frames.put(1, MIB)
    wire.bytes_per_second = 4 * MIB
    assert frames.get(1, MIB) == bytes(sample_frame(1, MIB))


def test_thirty_two_keys_are_looked_up_side_by_side(
    make_s3: Callable[..., Any], wire: Proxy
) -> None:
    frames = make_s3(f"http://127.0.0.1:{wire.port}").open()
    keys = [sample_key(number) for number in range(32)]
    frames.put(7)
    frames.backend.stat(keys, Deadline(30))  # so that all have connections
    # An answer is some 300 bytes, and so takes about a tenth of a second.
    wire.bytes_per_second = 3000
    begin = time.monotonic()
    assert frames.stat(7) == 8192
    one = time.monotonic() - begin
    begin = time.monotonic()
    found = frames.backend.stat(keys, Deadline(30))
    assert found == [8192 if number == 7 else None for number in range(32)]
    assert one > 0.02
    assert time.monotonic() - begin < 8 * one


def test_a_call_that_nobody_waits_for_any_more_ends(s3: Any, frozen: Callable[[], None]) -> None:
    frames = s3.open()
    frames.put(1)
    frozen()
    cancel = threading.Event()
    timer = threading.Timer(SHORT, cancel.set)
    timer.start()
    begin = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        frames.backend.get([sample_key(1)], [aligned_buffer(8192)], Deadline(60, cancel))
    timer.join()
    assert time.monotonic() - begin < SHORT + SLACK


def test_closing_does_not_wait_for_a_frozen_server(s3: Any, frozen: Callable[[], None]) -> None:
    frames = s3.open()
    frames.put(1)
    frozen()
    with pytest.raises(DeadlineExceededError):
        frames.get(1, within=SHORT)
    begin = time.monotonic()
    frames.backend.close()
    assert time.monotonic() - begin < SLACK
