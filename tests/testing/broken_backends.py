"""One broken backend for each check, and good ones to compare them with.

Each class decorated with ``broken`` breaks the promise of the check it names.
Where a fault would break other promises too, it shows itself only in the
situation that the check makes. ``test_kit.py`` runs the kit over all of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import ClassVar

import pytest

from lmcache_core.api import BackendContext, Capability, Deadline, PutStatus, StoreUsage
from lmcache_core.errors import BackendError
from lmcache_core.keys import Key
from lmcache_core.testing import DictBackend, DictConfig, DictStore, StorageBackendTests
from lmcache_core.testing.material import sample_key

CONTEXT = BackendContext(instance_id="kit", tier="broken")
ALL = (
    Capability.DURABLE
    | Capability.SHARED
    | Capability.SYNC
    | Capability.PROTECT
    | Capability.SCAN
    | Capability.USAGE
    | Capability.REPLACE
)
PAGE = 4096

Keys = Sequence[Key]
Views = Sequence[memoryview]
Lengths = list[int | None]
Statuses = list[PutStatus]


class Store(DictStore):
    """A dictionary with room for what a broken backend remembers.

    Attributes:
        opened: How many backends have been opened over it.
        written: Whether anything was ever put.
        memory: Whatever a backend remembers beyond its own life.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        super().__init__(max_bytes)
        self.opened = 0
        self.written = False
        self.memory = SimpleNamespace()


class Good(DictBackend):
    """Every capability but ``SELF_EVICTING``; the store outlives the backend."""

    usable = True

    def __init__(self, store: Store) -> None:
        super().__init__(DictConfig(), CONTEXT, store)
        self.store = store

    def open(self) -> None:
        if not self.usable:
            message = "the store is on fire; put it out"
            raise BackendError(message)
        self.store.opened += 1

    def put(self, keys: Keys, frames: Views, deadline: Deadline) -> Statuses:
        self.store.written = True
        return super().put(keys, frames, deadline)

    def sync(self, deadline: Deadline) -> None:
        deadline.check("sync")

    def protect(self, keys: Keys, protected: bool, deadline: Deadline) -> list[bool]:
        return [not protected or key in self.store.frames for key in keys]


class SelfEvicting(Good):
    """Drops the oldest unprotected frame instead of being full."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.kept: set[Key] = set()

    def put(self, keys: Keys, frames: Views, deadline: Deadline) -> Statuses:
        pairs = zip(keys, frames, strict=True)
        return [self._make_room(key, frame, deadline) for key, frame in pairs]

    def protect(self, keys: Keys, protected: bool, deadline: Deadline) -> list[bool]:
        self.kept = self.kept | set(keys) if protected else self.kept - set(keys)
        return super().protect(keys, protected, deadline)

    def _make_room(self, key: Key, frame: memoryview, deadline: Deadline) -> PutStatus:
        while (status := super().put([key], [frame], deadline)[0]) is PutStatus.FULL:
            self.remove([next(k for k in self.store.frames if k not in self.kept)], deadline)
        return status


class Suite(StorageBackendTests):
    """Runs the kit over ``backend_type``, with every optional fixture."""

    __test__ = False
    backend_type: ClassVar[type[Good]] = Good
    capabilities = ALL

    @pytest.fixture
    def store(self) -> Store:
        return Store()

    @pytest.fixture
    def make_backend(self, store: Store) -> Callable[[], Good]:
        return lambda: self.backend_type(store)

    @pytest.fixture
    def make_bounded_backend(self) -> Callable[[int], Good]:
        return lambda nbytes: self.backend_type(Store(nbytes))

    @pytest.fixture
    def make_unusable_backend(self) -> Callable[[], Good]:
        def make() -> Good:
            backend = self.backend_type(Store())
            backend.usable = False
            return backend

        return make

    @pytest.fixture
    def peek(self, store: Store) -> Callable[[Key], bytes | None]:
        return store.frames.get

    @pytest.fixture
    def plant(self, store: Store) -> Callable[[Key, bytes], None]:
        return store.frames.__setitem__


class TestGood(Suite):
    __test__ = True


class TestSelfEvicting(Suite):
    __test__ = True
    backend_type = SelfEvicting
    capabilities = ALL | Capability.SELF_EVICTING


SUMMARY = "test_any_order_of_calls_agrees_with_a_dictionary"
"""Makes every call, and so finds the faults of other checks too."""

BROKEN: dict[str, str] = {}
"""The check that each suite is to fail, by the suite's name."""


def broken(check: str, suite: type[Suite] = TestGood) -> Callable[[type[Good]], type[Good]]:
    """Make a suite that is to fail ``check`` and at most ``SUMMARY`` beside it."""

    def make(backend: type[Good]) -> type[Good]:
        name = f"Test{backend.__name__}"
        BROKEN[name] = check
        globals()[name] = type(name, (suite,), {"backend_type": backend, "__module__": __name__})
        return backend

    return make


def misaligned(answers: list) -> list:
    """Give a mixed batch's answers back in an order of their own."""
    return sorted(answers, key=str) if len(set(answers)) > 1 else answers


# store_id, open, close


@broken("test_store_id_is_a_name")
class NamesItselfByContent(Good):
    @property
    def store_id(self) -> str:
        return f"{super().store_id}:{len(self.store.frames)}"


@broken("test_a_store_that_cannot_be_used_fails_in_open")
class OpensAnything(Good):
    def open(self) -> None:
        self.store.opened += 1


@broken("test_close_is_idempotent")
class ClosesOnce(Good):
    closed = False

    def close(self) -> None:
        if self.closed:
            message = "closed already"
            raise BackendError(message)
        self.closed = True


# get


@broken("test_get_returns_what_was_put")
class SpoilsAnOddLength(Good):
    def get(self, keys: Keys, buffers: Views, deadline: Deadline) -> Lengths:
        lengths = super().get(keys, buffers, deadline)
        for length, buffer in zip(lengths, buffers, strict=True):
            if length == 3 * PAGE - 1:
                buffer[length - 1] ^= 1
        return lengths


@broken("test_get_of_an_absent_key_is_none")
class ReadsNothingOfAFreshStore(Good):
    def get(self, keys: Keys, buffers: Views, deadline: Deadline) -> Lengths:
        lengths = super().get(keys, buffers, deadline)
        fresh = not self.store.written and self.store.opened == 1 and buffers[0].nbytes == PAGE
        return [0] if lengths == [None] and fresh else lengths


@broken("test_get_into_a_short_buffer_is_none")
class ReadsAPart(Good):
    def get(self, keys: Keys, buffers: Views, deadline: Deadline) -> Lengths:
        lengths = super().get(keys, buffers, deadline)
        for number, (key, buffer) in enumerate(zip(keys, buffers, strict=True)):
            frame = self.store.frames.get(key)
            if frame and len(frame) > buffer.nbytes:
                buffer[:] = frame[: buffer.nbytes]
                lengths[number] = buffer.nbytes
        return lengths


@broken("test_get_leaves_bytes_behind_the_frame_alone")
class ClearsTheRest(Good):
    def get(self, keys: Keys, buffers: Views, deadline: Deadline) -> Lengths:
        lengths = super().get(keys, buffers, deadline)
        for length, buffer in zip(lengths, buffers, strict=True):
            if length is not None:
                buffer[length:] = bytes(buffer.nbytes - length)
        return lengths


@broken("test_get_is_aligned")
class ReadsInItsOwnOrder(Good):
    def get(self, keys: Keys, buffers: Views, deadline: Deadline) -> Lengths:
        return misaligned(super().get(keys, buffers, deadline))


@broken("test_get_keeps_no_reference_to_a_buffer")
class KeepsTheBuffer(Good):
    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.cache: dict[Key, memoryview] = {}

    def get(self, keys: Keys, buffers: Views, deadline: Deadline) -> Lengths:
        lengths = super().get(keys, buffers, deadline)
        for key, length, buffer in zip(keys, lengths, buffers, strict=True):
            if length is None:
                continue
            if key in self.cache:
                buffer[:length] = self.cache[key]
            self.cache[key] = buffer[:length]
        return lengths

    def remove(self, keys: Keys, deadline: Deadline) -> list[bool]:
        for key in keys:
            self.cache.pop(key, None)
        return super().remove(keys, deadline)

    def replace(self, keys: Keys, frames: Views, deadline: Deadline) -> list[bool]:
        for key in keys:
            self.cache.pop(key, None)
        return super().replace(keys, frames, deadline)


# stat


@broken("test_stat_tells_lengths")
class TellsAllocatedBytes(Good):
    def stat(self, keys: Keys, deadline: Deadline) -> Lengths:
        lengths = super().stat(keys, deadline)
        return [2 * PAGE if length == PAGE + 7 else length for length in lengths]


@broken("test_stat_of_an_absent_key_is_none")
class TellsNoLengthOfAFreshStore(Good):
    def stat(self, keys: Keys, deadline: Deadline) -> Lengths:
        lengths = super().stat(keys, deadline)
        return lengths if self.store.written else [length or 0 for length in lengths]


@broken("test_stat_is_aligned")
class TellsInItsOwnOrder(Good):
    def stat(self, keys: Keys, deadline: Deadline) -> Lengths:
        return misaligned(super().stat(keys, deadline))


# put


@broken("test_put_of_a_new_key_is_stored")
class CallsTheFirstFramePresent(Good):
    def put(self, keys: Keys, frames: Views, deadline: Deadline) -> Statuses:
        first = not self.store.frames and keys[:1] == [sample_key(1)] and frames[0].nbytes == PAGE
        statuses = super().put(keys, frames, deadline)
        return [PutStatus.PRESENT] if first else statuses


@broken("test_put_of_a_present_key_writes_nothing")
class WritesAnyhow(Good):
    def put(self, keys: Keys, frames: Views, deadline: Deadline) -> Statuses:
        statuses = super().put(keys, frames, deadline)
        for key, frame, status in zip(keys, frames, statuses, strict=True):
            if status is PutStatus.PRESENT:
                self.store.frames[key] = bytes(frame)
        return statuses


@broken("test_put_is_aligned")
class AnswersInItsOwnOrder(Good):
    def put(self, keys: Keys, frames: Views, deadline: Deadline) -> Statuses:
        return misaligned(super().put(keys, frames, deadline))


@broken("test_put_keeps_no_reference_to_a_frame")
class KeepsTheFrame(Good):
    def put(self, keys: Keys, frames: Views, deadline: Deadline) -> Statuses:
        statuses = super().put(keys, frames, deadline)
        for key, frame, status in zip(keys, frames, statuses, strict=True):
            if status is PutStatus.STORED:
                self.store.frames[key] = frame
        return statuses


@broken("test_put_reaches_the_store")
class WritesBehind(Good):
    """What was put last is written by the next call, whatever it is."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        memory = store.memory
        self.guard: threading.RLock = memory.__dict__.setdefault("guard", threading.RLock())
        self.behind: dict[Key, bytes] = memory.__dict__.setdefault("behind", {})

    def _flush(self) -> None:
        self.store.frames.update(self.behind)
        self.behind.clear()

    def put(self, keys: Keys, frames: Views, deadline: Deadline) -> Statuses:
        with self.guard:
            self._flush()
            statuses = super().put(keys, frames, deadline)
            for key, status in zip(keys, statuses, strict=True):
                if status is PutStatus.STORED:
                    self.behind[key] = self.store.frames.pop(key)
            return statuses

    def get(self, keys: Keys, buffers: Views, deadline: Deadline) -> Lengths:
        with self.guard:
            self._flush()
            return super().get(keys, buffers, deadline)

    def stat(self, keys: Keys, deadline: Deadline) -> Lengths:
        with self.guard:
            self._flush()
            return super().stat(keys, deadline)

    def remove(self, keys: Keys, deadline: Deadline) -> list[bool]:
        with self.guard:
            self._flush()
            return super().remove(keys, deadline)

    def replace(self, keys: Keys, frames: Views, deadline: Deadline) -> list[bool]:
        with self.guard:
            self._flush()
            return super().replace(keys, frames, deadline)

    def protect(self, keys: Keys, protected: bool, deadline: Deadline) -> list[bool]:
        with self.guard:
            self._flush()
            return super().protect(keys, protected, deadline)

    def scan(self) -> Iterator[tuple[Key, int]]:
        self._flush()
        return super().scan()

    def usage(self) -> StoreUsage:
        self._flush()
        return super().usage()

    def close(self) -> None:
        self._flush()


@broken("test_get_reads_the_store")
class ReadsOnlyWhatItWrote(Good):
    def put(self, keys: Keys, frames: Views, deadline: Deadline) -> Statuses:
        self.store.memory.__dict__.setdefault("known", set()).update(keys)
        return super().put(keys, frames, deadline)

    def get(self, keys: Keys, buffers: Views, deadline: Deadline) -> Lengths:
        known = getattr(self.store.memory, "known", set())
        lengths = super().get(keys, buffers, deadline)
        return [n if key in known else None for key, n in zip(keys, lengths, strict=True)]


# remove


@broken("test_remove_tells_what_was_there")
class RemovesTwice(Good):
    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.removed: set[Key] = set()

    def remove(self, keys: Keys, deadline: Deadline) -> list[bool]:
        there = super().remove(keys, deadline)
        answers = [was or key in self.removed for key, was in zip(keys, there, strict=True)]
        self.removed.update(keys)
        return answers


@broken("test_removed_frames_are_gone")
class ReadsTheDead(Good):
    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.dead: dict[Key, bytes] = {}

    def remove(self, keys: Keys, deadline: Deadline) -> list[bool]:
        self.dead.update((key, self.store.frames[key]) for key in keys if key in self.store.frames)
        return super().remove(keys, deadline)

    def quarantine(self, keys: Keys, reasons: Sequence[str], deadline: Deadline) -> list[bool]:
        # Gone indeed, so that this is seen by the check of ``remove`` alone.
        return DictBackend.remove(self, keys, deadline)

    def get(self, keys: Keys, buffers: Views, deadline: Deadline) -> Lengths:
        lengths = super().get(keys, buffers, deadline)
        for number, (key, buffer) in enumerate(zip(keys, buffers, strict=True)):
            if lengths[number] is None and key in self.dead:
                buffer[:] = self.dead[key]
                lengths[number] = buffer.nbytes
        return lengths


@broken("test_a_removed_key_can_be_put_again")
class KeepsTombstones(Good):
    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.tombstones: set[Key] = set()

    def remove(self, keys: Keys, deadline: Deadline) -> list[bool]:
        self.tombstones.update(keys)
        return super().remove(keys, deadline)

    def put(self, keys: Keys, frames: Views, deadline: Deadline) -> Statuses:
        if self.tombstones.intersection(keys):
            return [PutStatus.FAILED] * len(keys)
        return super().put(keys, frames, deadline)


@broken("test_remove_is_aligned")
class RemovesInItsOwnOrder(Good):
    def remove(self, keys: Keys, deadline: Deadline) -> list[bool]:
        return misaligned(super().remove(keys, deadline))


# batches and keys


@broken("test_quarantined_frames_are_gone")
class QuarantinesInPlace(Good):
    def quarantine(self, keys: Keys, reasons: Sequence[str], deadline: Deadline) -> list[bool]:
        return [length is not None for length in self.stat(keys, deadline)]


@broken("test_empty_batches")
class WantsAKey(Good):
    def stat(self, keys: Keys, deadline: Deadline) -> Lengths:
        if not keys:
            message = "no keys"
            raise BackendError(message)
        return super().stat(keys, deadline)


@broken("test_many_keys_in_one_call")
class StopsAt512(Good):
    def stat(self, keys: Keys, deadline: Deadline) -> Lengths:
        return super().stat(keys[:512], deadline)


@broken("test_keys_of_any_bytes")
class IgnoresCase(Good):
    def _spell(self, keys: Keys) -> list[Key]:
        spelling = self.store.memory.__dict__.setdefault("spelling", {})
        return [spelling.setdefault(key.lower(), key) for key in keys]

    def put(self, keys: Keys, frames: Views, deadline: Deadline) -> Statuses:
        return super().put(self._spell(keys), frames, deadline)

    def get(self, keys: Keys, buffers: Views, deadline: Deadline) -> Lengths:
        return super().get(self._spell(keys), buffers, deadline)


# several threads, and time


@broken("test_readers_see_whole_frames_or_nothing")
class WritesInTwoParts(Good):
    def put(self, keys: Keys, frames: Views, deadline: Deadline) -> Statuses:
        if not frames or frames[0].nbytes != 64 * PAGE:
            return super().put(keys, frames, deadline)
        self.store.frames[keys[0]] = bytes(frames[0][: 32 * PAGE])
        time.sleep(0.02)  # long enough for a reader to come by
        self.store.frames[keys[0]] = bytes(frames[0])
        return [PutStatus.STORED]


class Exclusive(Good):
    """Refuses a put beside another; which ones, ``_clash`` says."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.under_way: list[Key] = []
        self.guard = threading.Lock()

    def _clash(self, key: Key) -> bool:
        raise NotImplementedError

    def put(self, keys: Keys, frames: Views, deadline: Deadline) -> Statuses:
        with self.guard:
            if keys and self._clash(keys[0]):
                return [PutStatus.FAILED] * len(keys)
            self.under_way += keys
        try:
            time.sleep(0.002)  # long enough for another writer to come by
            return super().put(keys, frames, deadline)
        finally:
            with self.guard:
                for key in keys:
                    self.under_way.remove(key)


@broken("test_one_of_several_writers_wins")
class RefusesASecondWriter(Exclusive):
    def _clash(self, key: Key) -> bool:
        return key in self.under_way


@broken("test_concurrent_calls_on_unlike_keys")
class WritesOneKeyAtATime(Exclusive):
    def _clash(self, key: Key) -> bool:
        return any(other != key for other in self.under_way)


@broken("test_an_expired_deadline_is_an_answer_or_a_backend_error")
class FailsInItsOwnWay(Good):
    def get(self, keys: Keys, buffers: Views, deadline: Deadline) -> Lengths:
        if deadline.expired:
            raise TimeoutError
        return super().get(keys, buffers, deadline)


# a store with a bound


@broken("test_a_full_store_says_so")
class FailsWhenFull(Good):
    def put(self, keys: Keys, frames: Views, deadline: Deadline) -> Statuses:
        statuses = super().put(keys, frames, deadline)
        return [PutStatus.FAILED if status is PutStatus.FULL else status for status in statuses]


@broken("test_a_full_store_keeps_what_it_has")
class SpoilsAFrameWhenFull(Good):
    def put(self, keys: Keys, frames: Views, deadline: Deadline) -> Statuses:
        statuses = super().put(keys, frames, deadline)
        if PutStatus.FULL in statuses:
            oldest = next(iter(self.store.frames))
            self.store.frames[oldest] = bytes(len(self.store.frames[oldest]))
        return statuses


@broken("test_removal_makes_room")
class StaysFull(Good):
    full = False

    def put(self, keys: Keys, frames: Views, deadline: Deadline) -> Statuses:
        if self.full:
            return [PutStatus.FULL] * len(keys)
        statuses = super().put(keys, frames, deadline)
        self.full = PutStatus.FULL in statuses
        return statuses


# capabilities


@broken("test_scan_yields_every_frame")
class ScansWholePages(Good):
    def scan(self) -> Iterator[tuple[Key, int]]:
        return ((key, length // PAGE * PAGE) for key, length in super().scan())


@broken("test_scan_leaves_removed_frames_out")
class ScansTheDead(ReadsTheDead):
    def get(self, keys: Keys, buffers: Views, deadline: Deadline) -> Lengths:
        return Good.get(self, keys, buffers, deadline)

    def scan(self) -> Iterator[tuple[Key, int]]:
        dead = [(key, len(frame)) for key, frame in self.dead.items()]
        yield from super().scan()
        yield from dead


@broken("test_scan_goes_on_while_the_store_changes")
class ScansTheLivingDictionary(Good):
    def scan(self) -> Iterator[tuple[Key, int]]:
        return ((key, len(frame)) for key, frame in self.store.frames.items())


@broken("test_usage_counts_frames_and_bytes")
class CountsPages(Good):
    def usage(self) -> StoreUsage:
        used_bytes, frames = super().usage()
        return StoreUsage(-(-used_bytes // PAGE) * PAGE, frames)


@broken("test_usage_counts_a_present_key_once")
class CountsTwice(Good):
    def put(self, keys: Keys, frames: Views, deadline: Deadline) -> Statuses:
        statuses = super().put(keys, frames, deadline)
        self.store.used_bytes += PAGE * statuses.count(PutStatus.PRESENT)
        return statuses


@broken("test_usage_forgets_removed_frames")
class ForgetsTwice(Good):
    def remove(self, keys: Keys, deadline: Deadline) -> list[bool]:
        there = super().remove(keys, deadline)
        self.store.used_bytes -= PAGE * there.count(False)
        return there


@broken("test_a_frame_takes_the_place_of_another")
class KeepsTheLength(Good):
    def replace(self, keys: Keys, frames: Views, deadline: Deadline) -> list[bool]:
        old = [self.store.frames.get(key, b"") for key in keys]
        cut = [frame[: len(was)] for frame, was in zip(frames, old, strict=True)]
        return super().replace(keys, cut, deadline)


@broken("test_no_frame_takes_the_place_of_none")
class ReplacesNothing(Good):
    def replace(self, keys: Keys, frames: Views, deadline: Deadline) -> list[bool]:
        if len(keys) > 1:
            self.put(keys, frames, deadline)
        return super().replace(keys, frames, deadline)


@broken("test_what_was_replaced_survives_reopening")
class ReplacesForNow(Good):
    def replace(self, keys: Keys, frames: Views, deadline: Deadline) -> list[bool]:
        self.old = {key: self.store.frames[key] for key in keys if key in self.store.frames}
        return super().replace(keys, frames, deadline)

    def close(self) -> None:
        self.store.frames.update(getattr(self, "old", {}))


@broken("test_usage_counts_what_takes_the_place_of_another")
class CountsBoth(Good):
    def replace(self, keys: Keys, frames: Views, deadline: Deadline) -> list[bool]:
        replaced = super().replace(keys, frames, deadline)
        self.store.used_bytes += PAGE * replaced.count(True)
        return replaced


@broken("test_sync_leaves_frames_readable")
class CannotSyncAFreshStore(Good):
    def sync(self, deadline: Deadline) -> None:
        if not self.store.written:
            message = "nothing to sync"
            raise BackendError(message)
        super().sync(deadline)


@broken("test_frames_survive_reopening")
class ForgetsAtTheEnd(Good):
    """What was put; what has taken its place is somewhere else."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.elsewhere: set[Key] = set()

    def replace(self, keys: Keys, frames: Views, deadline: Deadline) -> list[bool]:
        self.elsewhere.update(keys)
        return super().replace(keys, frames, deadline)

    def close(self) -> None:
        for key in self.store.frames.keys() - self.elsewhere:
            del self.store.frames[key]


@broken("test_removal_survives_reopening")
class RevivesTheRemoved(ReadsTheDead):
    def get(self, keys: Keys, buffers: Views, deadline: Deadline) -> Lengths:
        return Good.get(self, keys, buffers, deadline)

    def close(self) -> None:
        self.store.frames.update(self.dead)


@broken("test_store_id_survives_reopening")
class RenamesItself(Good):
    @property
    def store_id(self) -> str:
        return f"{super().store_id}:{getattr(self.store.memory, 'closed', 0)}"

    def close(self) -> None:
        self.store.memory.closed = 1


@broken("test_engines_that_share_a_store_have_its_name")
class NumbersTheEngines(Good):
    number = 0

    def open(self) -> None:
        super().open()
        self.number = getattr(self.store.memory, "engines", 0)
        self.store.memory.engines = self.number + 1

    @property
    def store_id(self) -> str:
        return f"{super().store_id}:{self.number}"

    def close(self) -> None:
        self.store.memory.engines -= 1


@broken("test_one_engine_reads_what_another_put")
class RemembersMisses(Good):
    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.misses: set[Key] = set()
        self.guard = threading.RLock()

    def get(self, keys: Keys, buffers: Views, deadline: Deadline) -> Lengths:
        with self.guard:
            lengths = super().get(keys, buffers, deadline)
            answers = [
                None if key in self.misses else n for key, n in zip(keys, lengths, strict=True)
            ]
            self.misses.update(key for key in keys if key not in self.store.frames)
            return answers

    def put(self, keys: Keys, frames: Views, deadline: Deadline) -> Statuses:
        with self.guard:
            self.misses.difference_update(keys)
            return super().put(keys, frames, deadline)


@broken("test_one_engine_sees_that_another_put")
class KnowsItsOwnIndexOnly(Good):
    def open(self) -> None:
        super().open()
        self.index = set(self.store.frames)

    def put(self, keys: Keys, frames: Views, deadline: Deadline) -> Statuses:
        known = [key in self.index for key in keys]
        statuses = super().put(keys, frames, deadline)
        self.index.update(keys)
        return [
            PutStatus.STORED if status is PutStatus.PRESENT and not mine else status
            for mine, status in zip(known, statuses, strict=True)
        ]


@broken("test_one_engine_misses_what_another_removed")
class RemembersFrames(Good):
    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.cache: dict[Key, bytes] = {}

    def put(self, keys: Keys, frames: Views, deadline: Deadline) -> Statuses:
        statuses = super().put(keys, frames, deadline)
        for key, frame, status in zip(keys, frames, statuses, strict=True):
            if status is PutStatus.STORED:
                self.cache[key] = bytes(frame)
        return statuses

    def get(self, keys: Keys, buffers: Views, deadline: Deadline) -> Lengths:
        lengths = super().get(keys, buffers, deadline)
        for number, (key, buffer) in enumerate(zip(keys, buffers, strict=True)):
            frame = self.cache.get(key, b"")
            if lengths[number] is None and 0 < len(frame) <= buffer.nbytes:
                buffer[: len(frame)] = frame
                lengths[number] = len(frame)
        return lengths

    def remove(self, keys: Keys, deadline: Deadline) -> list[bool]:
        for key in keys:
            self.cache.pop(key, None)
        return super().remove(keys, deadline)


@broken("test_protect_tells_for_each_key")
class ProtectsWhatIsNotThere(Good):
    def protect(self, keys: Keys, protected: bool, deadline: Deadline) -> list[bool]:
        del protected, deadline
        return [True] * len(keys)


@broken("test_protected_frames_stay", TestSelfEvicting)
class EvictsTheProtected(SelfEvicting):
    def protect(self, keys: Keys, protected: bool, deadline: Deadline) -> list[bool]:
        return Good.protect(self, keys, protected, deadline)


# any order of calls


@broken(SUMMARY)
class LosesWhatComesTheThirdTime(Good):
    def open(self) -> None:
        super().open()
        self.times: dict[Key, int] = self.store.memory.__dict__.setdefault("times", {})
        if not self.store.frames:
            self.times.clear()

    def put(self, keys: Keys, frames: Views, deadline: Deadline) -> Statuses:
        statuses = super().put(keys, frames, deadline)
        for key, status in zip(keys, statuses, strict=True):
            if status is PutStatus.STORED:
                self.times[key] = self.times.get(key, 0) + 1
                if self.times[key] == 3:
                    self.remove([key], deadline)
        return statuses
