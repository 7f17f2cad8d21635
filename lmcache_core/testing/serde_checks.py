"""What every serde is checked for."""

from __future__ import annotations

import string
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from typing import ClassVar

import pytest

from lmcache_core.api import KVSpec, Serde
from lmcache_core.errors import ConfigError, SerdeError
from lmcache_core.testing.material import aligned_buffer, sample_frame, sample_key
from lmcache_core.testing.threads import together

MakeSerde = Callable[[], Serde]

PAGE = 4096
KEY = sample_key(1)
LABEL_LETTERS = set(string.ascii_letters + string.digits + string.punctuation) - {",", ":"}
LONG_BYTES = 16 << 20
LONG_SECONDS = 0.05
"""A call that takes less is not worth letting go of the GIL for."""


class SerdeChecks:
    """The promises of a serde, one check for each."""

    authenticates: ClassVar[bool] = False

    # accept, label, close

    def test_a_payload_it_cannot_encode_is_refused(
        self, make_serde: MakeSerde, refused_spec: KVSpec
    ) -> None:
        serde = make_serde()
        with pytest.raises(ConfigError) as failure:
            serde.accept(refused_spec)
        assert str(failure.value), "the message says what to do"

    def test_a_serde_that_cannot_be_used_fails_in_accept(
        self, make_unusable_serde: MakeSerde, kv_spec: KVSpec
    ) -> None:
        serde = make_unusable_serde()
        with pytest.raises(ConfigError) as failure:
            serde.accept(kv_spec)
        assert str(failure.value), "the message says what to do"

    def test_the_label_fits_into_a_header(self, serde: Serde) -> None:
        label = serde.label
        assert isinstance(label, str)
        assert len(label) <= 64
        assert set(label) <= LABEL_LETTERS
        serde.encode(KEY, payload(PAGE))
        assert serde.label == label

    def test_close_is_idempotent(self, make_serde: MakeSerde, kv_spec: KVSpec) -> None:
        serde = make_serde()
        serde.accept(kv_spec)
        serde.encode(KEY, payload(PAGE))
        serde.close()
        serde.close()

    # encode and decode

    def test_decode_gives_back_what_was_encoded(self, serde: Serde) -> None:
        for number, nbytes in enumerate((1, PAGE - 1, PAGE, 3 * PAGE + 1, 1 << 20)):
            for made in (payload(nbytes, number), repeated(nbytes)):
                key = sample_key(number)
                assert decoded(serde, key, serde.encode(key, made), nbytes) == bytes(made)

    def test_an_empty_payload_comes_back(self, serde: Serde) -> None:
        stored = serde.encode(KEY, memoryview(b""))
        serde.decode(KEY, memoryview(stored), memoryview(bytearray()))

    def test_buffers_may_be_read_only(self, serde: Serde) -> None:
        made = payload(PAGE)
        stored = serde.encode(KEY, made.toreadonly())
        target = memoryview(bytearray(PAGE))
        serde.decode(KEY, memoryview(bytes(stored)), target)
        assert bytes(target) == decoded(serde, KEY, stored, PAGE)

    def test_encode_leaves_the_payload_alone(self, serde: Serde) -> None:
        for made in (payload(2 * PAGE), repeated(2 * PAGE)):
            before = bytes(made)
            serde.encode(KEY, made)
            assert bytes(made) == before

    def test_what_is_encoded_is_no_view_of_the_payload(self, serde: Serde) -> None:
        made = payload(2 * PAGE)
        stored = serde.encode(KEY, made)
        before = bytes(stored)
        made[:] = bytes(2 * PAGE)
        assert bytes(stored) == before

    def test_what_is_encoded_stays_as_it_is(self, serde: Serde) -> None:
        stored = serde.encode(KEY, payload(2 * PAGE))
        before = bytes(stored)
        for number in range(2, 6):
            other = serde.encode(sample_key(number), payload(2 * PAGE, number))
            decoded(serde, sample_key(number), other, 2 * PAGE)
        assert bytes(stored) == before

    def test_another_engine_decodes_it(self, open_serde: MakeSerde) -> None:
        one, other = open_serde(), open_serde()
        stored = bytes(one.encode(KEY, payload(PAGE)))
        assert decoded(other, KEY, stored, PAGE) == decoded(one, KEY, stored, PAGE)

    def test_many_threads_at_a_time(self, serde: Serde) -> None:
        stored = {n: serde.encode(sample_key(n), payload(8 * PAGE, n)) for n in range(6)}
        expected = {n: decoded(serde, sample_key(n), stored[n], 8 * PAGE) for n in range(6)}

        def work(number: int) -> set[bytes]:
            key = sample_key(number)
            found = set()
            for _ in range(10):
                again = serde.encode(key, payload(8 * PAGE, number))
                found.add(decoded(serde, key, again, 8 * PAGE))
                found.add(decoded(serde, key, stored[number], 8 * PAGE))
            return found

        found = together([partial(work, number) for number in range(6)])
        assert found == [{expected[number]} for number in range(6)]

    # bytes that are not what was encoded

    def test_damaged_bytes_are_a_serde_error_or_fill_the_payload(self, serde: Serde) -> None:
        stored = bytes(serde.encode(KEY, repeated(4 * PAGE)))
        for damaged in damage(stored):
            fills_or_raises(serde, damaged, 4 * PAGE)

    def test_bytes_cut_short_are_a_serde_error_or_fill_the_payload(self, serde: Serde) -> None:
        stored = bytes(serde.encode(KEY, payload(4 * PAGE)))
        for length in {*range(min(40, len(stored))), len(stored) // 2, len(stored) - 1}:
            fills_or_raises(serde, stored[:length], 4 * PAGE)

    def test_bytes_of_another_length_are_a_serde_error_or_fill_the_payload(
        self, serde: Serde
    ) -> None:
        for nbytes in (1, PAGE, 64 * PAGE):
            fills_or_raises(serde, bytes(serde.encode(KEY, payload(nbytes))), 4 * PAGE)

    def test_decode_takes_memory_in_proportion(self, serde: Serde) -> None:
        stored = serde.encode(KEY, memoryview(bytes(LONG_BYTES)))
        target = memoryview(bytearray(PAGE))
        tracemalloc.start()
        try:
            tries(serde, stored, target)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak_bytes <= 4 * (len(stored) + PAGE) + (1 << 20)

    def test_a_changed_byte_is_a_serde_error(self, serde: Serde) -> None:
        self._skip_unless_it_authenticates()
        stored = bytes(serde.encode(KEY, payload(PAGE)))
        for place in {0, len(stored) // 3, len(stored) // 2, len(stored) - 1}:
            changed = bytearray(stored)
            changed[place] ^= 1
            with pytest.raises(SerdeError):
                decoded(serde, KEY, changed, PAGE)

    def test_another_key_is_a_serde_error(self, serde: Serde) -> None:
        self._skip_unless_it_authenticates()
        stored = serde.encode(KEY, payload(PAGE))
        with pytest.raises(SerdeError):
            decoded(serde, sample_key(2), stored, PAGE)

    # the serving step goes on

    def test_encode_lets_go_of_the_gil(self, serde: Serde) -> None:
        made = memoryview(bytes(sample_frame(1, PAGE)) * (LONG_BYTES // PAGE))
        lets_go(lambda: serde.encode(KEY, made))

    def test_decode_lets_go_of_the_gil(self, serde: Serde) -> None:
        made = memoryview(bytes(sample_frame(1, PAGE)) * (LONG_BYTES // PAGE))
        stored = memoryview(serde.encode(KEY, made))
        target = memoryview(bytearray(LONG_BYTES))
        lets_go(lambda: serde.decode(KEY, stored, target))

    def _skip_unless_it_authenticates(self) -> None:
        if not self.authenticates:
            pytest.skip("authenticates is not declared")


def payload(nbytes: int, number: int = 1) -> memoryview:
    """Bytes without any pattern."""
    return sample_frame(number, nbytes) if nbytes else memoryview(bytearray())


def repeated(nbytes: int) -> memoryview:
    """Bytes with a pattern, which a compressor makes little of."""
    view = aligned_buffer(nbytes)
    view[:] = (b"key value " * (nbytes // 10 + 1))[:nbytes]
    return view


def decoded(serde: Serde, key: bytes, stored: bytes | bytearray | memoryview, nbytes: int) -> bytes:
    """What some stored bytes are decoded to."""
    target = aligned_buffer(nbytes)
    serde.decode(key, memoryview(stored), target)
    return bytes(target)


def damage(stored: bytes) -> Iterator[bytes]:
    """Bytes that are like what was stored, and some that are not."""
    for place in {0, 1, 2, 4, 8, len(stored) // 2, len(stored) - 1} & set(range(len(stored))):
        for flip in (0x01, 0xFF):
            yield stored[:place] + bytes([stored[place] ^ flip]) + stored[place + 1 :]
    yield stored + b"\0"
    yield stored + stored
    yield stored[1:]
    for number, nbytes in enumerate((1, 7, 64, PAGE, 4 * PAGE)):
        yield bytes(sample_frame(number, nbytes))
        yield bytes(nbytes)


def tries(serde: Serde, stored: bytes | bytearray | memoryview, target: memoryview) -> bool:
    """Decode what may not be decodable; False where it says so."""
    try:
        serde.decode(KEY, memoryview(stored), target)
    except SerdeError:
        return False
    return True


def fills_or_raises(serde: Serde, stored: bytes, nbytes: int) -> None:
    """Check that a decode that does not raise has written every byte."""
    targets = [memoryview(bytearray([fill]) * nbytes) for fill in (0x00, 0xFF)]
    filled = [tries(serde, stored, target) for target in targets]
    if all(filled):
        assert targets[0] == targets[1], "decode returned and had not filled the payload"


def lets_go(call: Callable[[], object]) -> None:
    """Check that this thread runs on while another makes a call that takes long."""
    for _ in range(3):  # a busy machine may stop a thread for its own reasons
        finished = threading.Event()
        times: list[float] = []

        def timed(finished: threading.Event = finished, times: list[float] = times) -> None:
            began = time.monotonic()
            try:
                call()
                times.append(time.monotonic() - began)
            finally:
                finished.set()

        thread = threading.Thread(target=timed, daemon=True)
        longest, last = 0.0, time.monotonic()
        thread.start()
        while not finished.wait(0.001):
            now = time.monotonic()
            longest, last = max(longest, now - last), now
        longest = max(longest, time.monotonic() - last)
        thread.join()
        assert times, "the call raised"
        if times[0] < LONG_SECONDS or longest < times[0] / 2:
            return
    pytest.fail(f"no other thread ran for {longest:.3f} s of a call of {times[0]:.3f} s")
