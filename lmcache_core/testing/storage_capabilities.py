"""What a storage backend is checked for because it declares it."""

from __future__ import annotations

from typing import ClassVar

from lmcache_core.api import Capability, PutStatus, StorageBackend
from lmcache_core.testing.calls import (
    LARGE,
    PAGE,
    OpenBackends,
    put,
    read,
    remove,
    replace,
    soon,
    stat,
)
from lmcache_core.testing.conformance import needs
from lmcache_core.testing.material import sample_frame, sample_key


class StorageCapabilityChecks:
    """The promises of each capability; undeclared ones skip with their name."""

    capabilities: ClassVar[Capability]

    @needs(Capability.SCAN)
    def test_scan_yields_every_frame(self, backend: StorageBackend) -> None:
        assert list(backend.scan()) == []
        for number in range(5):
            put(backend, number, PAGE + number)
        expected = sorted((sample_key(number), PAGE + number) for number in range(5))
        assert sorted(backend.scan()) == expected

    @needs(Capability.SCAN)
    def test_scan_leaves_removed_frames_out(self, backend: StorageBackend) -> None:
        put(backend, 1)
        put(backend, 2)
        remove(backend, 1)
        assert list(backend.scan()) == [(sample_key(2), PAGE)]

    @needs(Capability.SCAN)
    def test_scan_goes_on_while_the_store_changes(self, backend: StorageBackend) -> None:
        for number in range(10):
            put(backend, number)
        scan = backend.scan()
        seen = [next(scan)]
        put(backend, 100)
        put(backend, 101)
        gone = next(number for number in range(10) if (sample_key(number), PAGE) not in seen)
        remove(backend, gone)
        seen += scan
        stayed = {(sample_key(number), PAGE) for number in range(10) if number != gone}
        assert stayed <= set(seen)
        assert len(seen) == len(set(seen))

    @needs(Capability.USAGE)
    def test_usage_counts_frames_and_bytes(self, backend: StorageBackend) -> None:
        assert backend.usage() == (0, 0)
        put(backend, 1, PAGE)
        put(backend, 2, PAGE + 5)
        assert backend.usage() == (2 * PAGE + 5, 2)

    @needs(Capability.USAGE)
    def test_usage_counts_a_present_key_once(self, backend: StorageBackend) -> None:
        put(backend, 1)
        once = backend.usage()
        put(backend, 1)
        assert backend.usage() == once

    @needs(Capability.USAGE)
    def test_usage_forgets_removed_frames(self, backend: StorageBackend) -> None:
        put(backend, 1)
        before = backend.usage()
        put(backend, 2)
        remove(backend, 2)
        remove(backend, 2)
        assert backend.usage() == before

    @needs(Capability.REPLACE)
    def test_a_frame_takes_the_place_of_another(self, backend: StorageBackend) -> None:
        put(backend, 1, LARGE)
        for by, nbytes in ((101, PAGE + 5), (201, LARGE), (301, LARGE)):
            assert replace(backend, 1, by, nbytes) is True
            assert read(backend, 1, nbytes) == bytes(sample_frame(by, nbytes))
            assert stat(backend, 1) == nbytes
        assert put(backend, 1) is PutStatus.PRESENT

    @needs(Capability.REPLACE)
    def test_no_frame_takes_the_place_of_none(self, backend: StorageBackend) -> None:
        put(backend, 1)
        put(backend, 3)
        keys = [sample_key(number) for number in (1, 2, 3)]
        frames = [sample_frame(number, PAGE) for number in (101, 102, 103)]
        assert backend.replace(keys, frames, soon()) == [True, False, True]
        assert read(backend, 2) is None
        assert put(backend, 2) is PutStatus.STORED

    @needs(Capability.REPLACE | Capability.DURABLE)
    def test_what_was_replaced_survives_reopening(self, backends: OpenBackends) -> None:
        backend = backends.open()
        put(backend, 1, LARGE)
        assert replace(backend, 1, 101, PAGE + 5) is True
        self._finish(backends, backend)
        assert read(backends.open(), 1, PAGE + 5) == bytes(sample_frame(101, PAGE + 5))

    @needs(Capability.REPLACE | Capability.USAGE)
    def test_usage_counts_what_takes_the_place_of_another(self, backend: StorageBackend) -> None:
        put(backend, 1, LARGE)
        put(backend, 2, PAGE)
        replace(backend, 1, 101, 2 * PAGE)
        replace(backend, 3, 103, PAGE)
        assert backend.usage() == (3 * PAGE, 2)

    @needs(Capability.SYNC)
    def test_sync_leaves_frames_readable(self, backend: StorageBackend) -> None:
        backend.sync(soon())
        put(backend, 1)
        backend.sync(soon())
        assert read(backend, 1) == bytes(sample_frame(1, PAGE))

    @needs(Capability.DURABLE)
    def test_frames_survive_reopening(self, backends: OpenBackends) -> None:
        self._reopen(backends, 1, 2)
        again = backends.open()
        assert read(again, 1) == bytes(sample_frame(1, PAGE))
        assert stat(again, 2) == PAGE
        assert put(again, 1) is PutStatus.PRESENT

    @needs(Capability.DURABLE)
    def test_removal_survives_reopening(self, backends: OpenBackends) -> None:
        backend = backends.open()
        put(backend, 1)
        remove(backend, 1)
        self._finish(backends, backend)
        assert read(backends.open(), 1) is None

    @needs(Capability.DURABLE)
    def test_store_id_survives_reopening(self, backends: OpenBackends) -> None:
        name = self._reopen(backends, 1)
        assert backends.open().store_id == name

    @needs(Capability.SHARED)
    def test_engines_that_share_a_store_have_its_name(self, backends: OpenBackends) -> None:
        assert backends.open().store_id == backends.open().store_id

    @needs(Capability.SHARED)
    def test_one_engine_reads_what_another_put(self, backends: OpenBackends) -> None:
        one, other = backends.open(), backends.open()
        assert read(other, 1) is None
        put(one, 1)
        assert read(other, 1) == bytes(sample_frame(1, PAGE))
        assert stat(other, 1) == PAGE

    @needs(Capability.SHARED)
    def test_one_engine_sees_that_another_put(self, backends: OpenBackends) -> None:
        one, other = backends.open(), backends.open()
        put(one, 1)
        assert put(other, 1) is PutStatus.PRESENT

    @needs(Capability.SHARED)
    def test_one_engine_misses_what_another_removed(self, backends: OpenBackends) -> None:
        one, other = backends.open(), backends.open()
        put(one, 1)
        assert remove(other, 1) is True
        assert read(one, 1) is None

    @needs(Capability.PROTECT)
    def test_protect_tells_for_each_key(self, backend: StorageBackend) -> None:
        put(backend, 1)
        put(backend, 2)
        keys = [sample_key(1), sample_key(3), sample_key(2)]
        assert backend.protect(keys, True, soon()) == [True, False, True]  # noqa: FBT003
        assert backend.protect(keys[::2], False, soon()) == [True, True]  # noqa: FBT003

    @needs(Capability.PROTECT | Capability.SELF_EVICTING)
    def test_protected_frames_stay(self, bounded: StorageBackend) -> None:
        put(bounded, 0, LARGE)
        bounded.protect([sample_key(0)], True, soon())  # noqa: FBT003
        for number in range(1, 60):
            put(bounded, number, LARGE)
        assert read(bounded, 0, LARGE) == bytes(sample_frame(0, LARGE))

    def _reopen(self, backends: OpenBackends, *numbers: int) -> str:
        backend = backends.open()
        for number in numbers:
            put(backend, number)
        name = backend.store_id
        self._finish(backends, backend)
        return name

    def _finish(self, backends: OpenBackends, backend: StorageBackend) -> None:
        if Capability.SYNC in self.capabilities:
            backend.sync(soon())
        backends.close(backend)
