"""What every storage backend is checked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import pytest

from lmcache_core.api import Capability, Deadline, PutStatus, StorageBackend
from lmcache_core.errors import BackendError, DeadlineExceededError
from lmcache_core.keys import Key
from lmcache_core.testing.calls import (
    LARGE,
    PAGE,
    MakeBackend,
    OpenBackends,
    put,
    read,
    remove,
    soon,
    stat,
)
from lmcache_core.testing.material import (
    aligned_buffer,
    aligned_buffers,
    sample_frame,
    sample_key,
)
from lmcache_core.testing.threads import PATIENCE_SECONDS, together

Peek = Callable[[Key], bytes | None]
Plant = Callable[[Key, bytes], None]


class StorageChecks:
    """The promises of every backend, one check for each."""

    capabilities: ClassVar[Capability]

    # store_id, open, close

    def test_store_id_is_a_name(self, backend: StorageBackend) -> None:
        name = backend.store_id
        assert isinstance(name, str)
        assert name
        put(backend, 1)
        assert backend.store_id == name

    def test_a_store_that_cannot_be_used_fails_in_open(
        self, make_unusable_backend: MakeBackend
    ) -> None:
        backend = make_unusable_backend()
        with pytest.raises(BackendError) as failure:
            backend.open()
        assert str(failure.value), "the message says what to do"

    def test_close_is_idempotent(self, backends: OpenBackends) -> None:
        backend = backends.open()
        put(backend, 1)
        backends.close(backend)
        backend.close()

    # get

    def test_get_returns_what_was_put(self, backend: StorageBackend) -> None:
        for number, nbytes in enumerate((1, PAGE, PAGE + 1, 3 * PAGE - 1, 1 << 20)):
            frame = sample_frame(number, nbytes)
            backend.put([sample_key(number)], [frame], soon())
            assert read(backend, number, nbytes) == bytes(frame)

    def test_get_of_an_absent_key_is_none(self, backend: StorageBackend) -> None:
        assert backend.get([sample_key(1)], [aligned_buffer(PAGE)], soon()) == [None]

    def test_get_into_a_short_buffer_is_none(self, backend: StorageBackend) -> None:
        put(backend, 1, 2 * PAGE)
        assert backend.get([sample_key(1)], [aligned_buffer(PAGE)], soon()) == [None]
        assert read(backend, 1, 2 * PAGE) == bytes(sample_frame(1, 2 * PAGE))

    def test_get_leaves_bytes_behind_the_frame_alone(self, backend: StorageBackend) -> None:
        put(backend, 1, PAGE)
        buffer = aligned_buffer(3 * PAGE)
        buffer[:] = b"\xa5" * (3 * PAGE)
        assert backend.get([sample_key(1)], [buffer], soon()) == [PAGE]
        assert bytes(buffer[PAGE:]) == b"\xa5" * (2 * PAGE)

    def test_get_is_aligned(self, backend: StorageBackend) -> None:
        put(backend, 1, PAGE)
        put(backend, 3, 2 * PAGE)
        buffers = [aligned_buffer(2 * PAGE) for _ in range(4)]
        keys = [sample_key(number) for number in (2, 3, 4, 1)]
        assert backend.get(keys, buffers, soon()) == [None, 2 * PAGE, None, PAGE]
        assert bytes(buffers[1]) == bytes(sample_frame(3, 2 * PAGE))
        assert bytes(buffers[3][:PAGE]) == bytes(sample_frame(1, PAGE))

    def test_get_keeps_no_reference_to_a_buffer(self, backend: StorageBackend) -> None:
        put(backend, 1)
        buffer = aligned_buffer(PAGE)
        backend.get([sample_key(1)], [buffer], soon())
        buffer[:] = bytes(PAGE)
        assert read(backend, 1) == bytes(sample_frame(1, PAGE))

    # stat

    def test_stat_tells_lengths(self, backend: StorageBackend) -> None:
        put(backend, 1, PAGE)
        put(backend, 2, PAGE + 7)
        assert stat(backend, 1) == PAGE
        assert stat(backend, 2) == PAGE + 7

    def test_stat_of_an_absent_key_is_none(self, backend: StorageBackend) -> None:
        assert stat(backend, 1) is None

    def test_stat_is_aligned(self, backend: StorageBackend) -> None:
        put(backend, 1, PAGE)
        put(backend, 3, 2 * PAGE)
        keys = [sample_key(number) for number in (2, 3, 4, 1)]
        assert backend.stat(keys, soon()) == [None, 2 * PAGE, None, PAGE]

    # put

    def test_put_of_a_new_key_is_stored(self, backend: StorageBackend) -> None:
        assert put(backend, 1) is PutStatus.STORED

    def test_put_of_a_present_key_writes_nothing(self, backend: StorageBackend) -> None:
        put(backend, 1)
        other = sample_frame(2, PAGE)
        assert backend.put([sample_key(1)], [other], soon()) == [PutStatus.PRESENT]
        assert read(backend, 1) == bytes(sample_frame(1, PAGE))

    def test_put_is_aligned(self, backend: StorageBackend) -> None:
        put(backend, 1)
        put(backend, 3)
        numbers = (2, 3, 4, 1)
        keys = [sample_key(number) for number in numbers]
        frames = [sample_frame(number, PAGE) for number in numbers]
        assert backend.put(keys, frames, soon()) == [
            PutStatus.STORED,
            PutStatus.PRESENT,
            PutStatus.STORED,
            PutStatus.PRESENT,
        ]

    def test_put_keeps_no_reference_to_a_frame(self, backend: StorageBackend) -> None:
        frame = sample_frame(1, PAGE)
        backend.put([sample_key(1)], [frame], soon())
        frame[:] = bytes(PAGE)
        assert read(backend, 1) == bytes(sample_frame(1, PAGE))

    def test_put_reaches_the_store(self, backend: StorageBackend, peek: Peek) -> None:
        put(backend, 1)
        assert peek(sample_key(1)) == bytes(sample_frame(1, PAGE))
        assert peek(sample_key(2)) is None

    def test_get_reads_the_store(self, backends: OpenBackends, plant: Plant) -> None:
        plant(sample_key(1), bytes(sample_frame(1, PAGE)))
        assert read(backends.open(), 1) == bytes(sample_frame(1, PAGE))

    # remove

    def test_remove_tells_what_was_there(self, backend: StorageBackend) -> None:
        put(backend, 1)
        assert remove(backend, 1) is True
        assert remove(backend, 1) is False

    def test_removed_frames_are_gone(self, backend: StorageBackend) -> None:
        put(backend, 1)
        remove(backend, 1)
        assert read(backend, 1) is None
        assert stat(backend, 1) is None

    def test_a_removed_key_can_be_put_again(self, backend: StorageBackend) -> None:
        put(backend, 1)
        remove(backend, 1)
        frame = sample_frame(2, 2 * PAGE)
        assert backend.put([sample_key(1)], [frame], soon()) == [PutStatus.STORED]
        assert read(backend, 1, 2 * PAGE) == bytes(frame)

    def test_remove_is_aligned(self, backend: StorageBackend) -> None:
        put(backend, 1)
        put(backend, 3)
        keys = [sample_key(number) for number in (2, 3, 4, 1)]
        assert backend.remove(keys, soon()) == [False, True, False, True]

    def test_quarantined_frames_are_gone(self, backend: StorageBackend) -> None:
        put(backend, 1)
        put(backend, 3)
        keys = [sample_key(number) for number in (2, 3)]
        assert backend.quarantine(keys, ["no reason", "the checksum differs"], soon()) == [
            False,
            True,
        ]
        assert read(backend, 3) is None
        assert stat(backend, 3) is None
        assert read(backend, 1) == bytes(sample_frame(1, PAGE))

    # batches and keys

    def test_empty_batches(self, backend: StorageBackend) -> None:
        assert backend.stat([], soon()) == []
        assert backend.put([], [], soon()) == []
        assert backend.get([], [], soon()) == []
        assert backend.remove([], soon()) == []

    def test_many_keys_in_one_call(self, backend: StorageBackend) -> None:
        keys = [sample_key(number) for number in range(600)]
        frames = aligned_buffers(600, 64)
        for key, frame in zip(keys, frames, strict=True):
            frame[:] = key + key
        assert backend.put(keys, frames, soon()) == [PutStatus.STORED] * 600
        assert backend.stat(keys, soon()) == [64] * 600
        buffers = aligned_buffers(600, 64)
        assert backend.get(keys, buffers, soon()) == [64] * 600
        assert [bytes(buffer) for buffer in buffers] == [bytes(frame) for frame in frames]
        assert backend.remove(keys, soon()) == [True] * 600

    def test_keys_of_any_bytes(self, backend: StorageBackend) -> None:
        keys = [bytes([byte]) * 32 for byte in (0, 10, 13, 32, 37, 46, 47, 58, 65, 92, 97, 255)]
        keys += [bytes(31) + b"\1", b"\1" + bytes(31)]
        frames = [sample_frame(number, PAGE) for number in range(len(keys))]
        for key, frame in zip(keys, frames, strict=True):
            backend.put([key], [frame], soon())
        for key, frame in zip(keys, frames, strict=True):
            buffer = aligned_buffer(PAGE)
            assert backend.get([key], [buffer], soon()) == [PAGE]
            assert bytes(buffer) == bytes(frame)

    # several threads, and time

    def test_readers_see_whole_frames_or_nothing(self, backend: StorageBackend) -> None:
        nbytes = 64 * PAGE
        for number in range(6):
            started, written = threading.Event(), threading.Event()

            def write(
                number: int = number,
                started: threading.Event = started,
                written: threading.Event = written,
            ) -> list[bytes | None]:
                started.wait(PATIENCE_SECONDS)
                put(backend, number, nbytes)
                written.set()
                return []

            def look(
                number: int = number,
                started: threading.Event = started,
                written: threading.Event = written,
            ) -> list[bytes | None]:
                seen: list[bytes | None] = []
                while not written.is_set():
                    seen.append(read(backend, number, nbytes))
                    started.set()
                return [*seen, read(backend, number, nbytes)]

            seen = together([look, write])[0]
            whole = bytes(sample_frame(number, nbytes))
            assert set(seen) <= {None, whole}
            assert seen[-1] == whole

    def test_one_of_several_writers_wins(self, backend: StorageBackend) -> None:
        for key in (sample_key(number) for number in range(8)):
            frames = [sample_frame(number, 16 * PAGE) for number in range(4)]
            statuses = together([partial(backend.put, [key], [frame], soon()) for frame in frames])
            assert {status for (status,) in statuses} <= {PutStatus.STORED, PutStatus.PRESENT}
            assert [PutStatus.STORED] in statuses
            buffer = aligned_buffer(16 * PAGE)
            assert backend.get([key], [buffer], soon()) == [16 * PAGE]
            assert bytes(buffer) in [bytes(frame) for frame in frames]

    def test_concurrent_calls_on_unlike_keys(self, backend: StorageBackend) -> None:
        def work(first: int) -> list[str]:
            faults = []
            for number in range(first, first + 8):
                if put(backend, number) is not PutStatus.STORED:
                    faults.append(f"put {number}")
                if read(backend, number) != bytes(sample_frame(number, PAGE)):
                    faults.append(f"get {number}")
                if stat(backend, number) != PAGE:
                    faults.append(f"stat {number}")
                if number % 2 and not remove(backend, number):
                    faults.append(f"remove {number}")
            return faults

        faults = together([partial(work, first) for first in range(0, 48, 8)])
        assert faults == [[]] * 6

    def test_an_expired_deadline_is_an_answer_or_a_backend_error(
        self, backend: StorageBackend
    ) -> None:
        put(backend, 1)
        key, late = [sample_key(1)], Deadline(0.0)
        calls: list[Callable[[], Sequence[object]]] = [
            lambda: backend.stat(key, late),
            lambda: backend.get(key, [aligned_buffer(PAGE)], late),
            lambda: backend.put([sample_key(2)], [sample_frame(2, PAGE)], late),
            lambda: backend.remove([sample_key(3)], late),
        ]
        for call in calls:
            try:
                answer = together([call])[0]
            except (BackendError, DeadlineExceededError):
                continue
            assert len(answer) == 1
        assert read(backend, 1) == bytes(sample_frame(1, PAGE)), "a late call broke the store"

    # a store with a bound

    def test_a_full_store_says_so(self, bounded: StorageBackend) -> None:
        self._skip_self_evicting()
        statuses = [put(bounded, number, LARGE) for number in range(40)]
        assert set(statuses) == {PutStatus.STORED, PutStatus.FULL}

    def test_a_full_store_keeps_what_it_has(self, bounded: StorageBackend) -> None:
        self._skip_self_evicting()
        kept = [n for n in range(40) if put(bounded, n, LARGE) is PutStatus.STORED]
        for number in kept:
            assert read(bounded, number, LARGE) == bytes(sample_frame(number, LARGE))

    def test_removal_makes_room(self, bounded: StorageBackend) -> None:
        self._skip_self_evicting()
        kept = [n for n in range(40) if put(bounded, n, LARGE) is PutStatus.STORED]
        remove(bounded, kept[0])
        assert put(bounded, 100, LARGE) is PutStatus.STORED

    def _skip_self_evicting(self) -> None:
        if Capability.SELF_EVICTING in self.capabilities:
            pytest.skip("a store that evicts by itself need never be full")
