"""Which records a store has, by name."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from lmcache_core.api import PutStatus
from lmcache_core.api.frames import HEADER_BYTES
from lmcache_core.engine.frames.calls import BackendCalls
from lmcache_core.engine.frames.record import (
    LONGEST_BYTES,
    Record,
    is_records_of,
    new_key,
    pack,
    parse,
)
from lmcache_core.engine.storage.holdings import Holdings
from lmcache_core.engine.storage.pacing import paced
from lmcache_core.errors import BackendError, FrameError, LMCacheError
from lmcache_core.keys import Key
from lmcache_core.log import get_logger

log = get_logger(__name__)

NAMES_AT_ONCE = 1024
"""Of records that are looked through."""

READ_ONCE_BYTES = 64 << 20
"""Of records that are in memory between being found and being taken in; more are read twice."""

READ_AT_ONCE = 16
READ_BYTES = 1 << 20
"""Of records, one after the other; a longer one is a part by itself."""

EVICTIONS = 8
"""Chunks that make room for one record at most, where the store is full."""


class Kept(NamedTuple):
    """Where the record of a name is."""

    key: Key
    nbytes: int


class Taken(NamedTuple):
    """What has become of records that were handed over.

    Attributes:
        useless: Names of those that are of no use any more.
        put_off: Names of those that are to be handed over again after all others.
    """

    useless: Sequence[str]
    put_off: Sequence[str] = ()


Take = Callable[[Sequence[Record], float, bool], Taken]
"""Takes some records, the Unix time of the latest of all, and whether there are no others."""


def leave_records(_records: Sequence[Record], _latest: float, _last: bool) -> Taken:
    """Leave all of them where they are."""
    return Taken(())


class RecordShelf:
    """One instance's records in a store, each put before the one it takes the place of is removed.

    Not thread-safe: the thread that goes through the store calls it first, and
    then the one that keeps records.

    Args:
        holdings: The tier's state.
        calls: The store.
        instance_id: Whose records these are.
        namespace: Digest of the engine's namespace, for the frames.
        evict: Lets a chunk make room and returns when it has.
        trim: Lets what is above the tier's bound be evicted, and does not wait.

    Attributes:
        unsynced: Whether a record was removed since the last sync.
    """

    def __init__(
        self,
        holdings: Holdings,
        calls: BackendCalls,
        *,
        instance_id: str,
        namespace: bytes,
        evict: Callable[[], None],
        trim: Callable[[], None],
    ) -> None:
        self.unsynced = False
        self._holdings = holdings
        self._calls = calls
        self._instance_id = instance_id
        self._namespace = namespace
        self._evict = evict
        self._trim = trim
        self._kept: dict[str, Kept] = {}
        self._stale: list[tuple[str, Kept]] = []
        self._stamp = 0
        # Of what was found and is not taken in yet.
        self._stamps: dict[str, int] = {}
        self._read_once: dict[str, Record] = {}
        self._read_once_bytes = 0
        self._others = 0

    def find(self, keys: Sequence[tuple[Key, int]]) -> None:
        """Note what the store has kept of this instance; on the thread that goes through it.

        Beyond a bound what they say is read again when it is taken in, so that
        it need not all be in memory at once.

        Args:
            keys: The keys of some records and their lengths, anybody's.
        """
        mine = [Kept(*found) for found in keys if is_records_of(found[0], self._instance_id)]
        self._others += len(keys) - len(mine)
        for part in paced(mine, READ_AT_ONCE):
            for kept in part:
                record = self._read(kept)
                if record is not None:
                    self._note_found(record, kept)

    def take_in(self, take: Take) -> None:
        """Hand over the latest record of each name that was found, some at a time.

        Args:
            take: Called with them.
        """
        if self._others:
            name = self._holdings.name
            log.warning("tier.records_of_others", tier=name, records=self._others)
        put_off = self._hand_over(list(self._stamps), take, last=False)
        self._hand_over(put_off, take, last=True)

    def end_finding(self) -> None:
        """Let go of what was found and not taken in, where not all could be gone through."""
        self._stamps.clear()
        self._read_once.clear()

    def put(self, name: str, body: bytes) -> None:
        """Put a record, which takes the place of the one there is of its name.

        Raises:
            LMCacheError: The store did not take it.
        """
        self._stamp = max(self._stamp + 1, time.time_ns())
        key = new_key(self._instance_id)
        record = Record(name, self._stamp, self._instance_id, body)
        frame = pack(record, key, self._namespace)
        kept = Kept(key, frame.nbytes)
        for _ in range(EVICTIONS):
            try:
                status = self._calls.put(key, frame)
            except LMCacheError:
                self._count(kept.nbytes)
                self._stale.append((name, kept))  # It may be there or not.
                raise
            if status is not PutStatus.FULL:
                break
            self._evict()
        if status is not PutStatus.STORED:
            message = f"{self._holdings.name} did not take a record: {status.value}"
            raise BackendError(message)
        self._note(name, kept)
        # Behind it: a pin's answer does not wait for chunks to be written and removed.
        self._trim()

    def remove(self, name: str) -> None:
        """Remove all records of a name.

        Raises:
            LMCacheError: The store did not let us.
        """
        # The latest goes last, or else an older one would count for a while.
        self._drop([kept for stale, kept in self._stale if stale == name])
        self._stale = [found for found in self._stale if found[0] != name]
        if name in self._kept:
            self._drop([self._kept[name]])
            del self._kept[name]
            self.unsynced = True

    def mine(self, keys: Iterable[Key]) -> list[Key]:
        """Those of some keys that are records of this instance."""
        return [key for key in keys if is_records_of(key, self._instance_id)]

    def names(self, keys: Container[Key]) -> list[str]:
        """The names whose records are under some keys."""
        return [
            name
            for part in paced(self._kept.items(), NAMES_AT_ONCE)
            for name, kept in part
            if kept.key in keys
        ]

    def sync(self) -> None:
        """Make all of the store durable.

        Raises:
            LMCacheError: It is not known to be.
        """
        self._calls.sync()
        self.unsynced = False

    def clear_stale(self) -> None:
        """Remove records that others have taken the place of."""
        with suppress(LMCacheError):  # They are removed with the next change.
            self._drop([kept for _, kept in self._stale])
            self._stale.clear()

    def _hand_over(self, names: Sequence[str], take: Take, *, last: bool) -> list[str]:
        """Have records taken; return the names of those that are put off."""
        put_off: list[str] = []
        for part in self._parts(names):
            # One that cannot be read any more stays here, until its name changes or the next start.
            found = (
                self._read_once.pop(name, None) or self._read(self._kept[name]) for name in part
            )
            taken = take(
                [record for record in found if record is not None], self._stamp / 1e9, last
            )
            put_off += taken.put_off
            for name in taken.useless:
                self._stale.append((name, self._kept.pop(name)))
        return put_off

    def _parts(self, names: Sequence[str]) -> Iterator[list[str]]:
        """Cut up what is to be read, with a pause after each part."""
        for few in paced(names, READ_AT_ONCE):
            part: list[str] = []
            nbytes = 0
            for name in few:
                part.append(name)
                nbytes += self._kept[name].nbytes
                if nbytes >= READ_BYTES:
                    yield part
                    part, nbytes = [], 0
            if part:
                yield part

    def _note_found(self, record: Record, kept: Kept) -> None:
        """A record was there before us, and so may be an older or a later one of its name."""
        self._stamp = max(self._stamp, record.stamp)
        if record.stamp > self._stamps.get(record.name, -1):
            self._stamps[record.name] = record.stamp
            self._note(record.name, kept)
            self._read_once.pop(record.name, None)
            if self._read_once_bytes + kept.nbytes <= READ_ONCE_BYTES:
                self._read_once[record.name] = record
                self._read_once_bytes += kept.nbytes
        else:
            self._count(kept.nbytes)
            self._stale.append((record.name, kept))

    def _note(self, name: str, kept: Kept) -> None:
        """A record is there that takes the place of the one there was."""
        self._count(kept.nbytes)
        old = self._kept.get(name)
        if old is not None:
            self._stale.append((name, old))
        self._kept[name] = kept

    def _drop(self, records: Sequence[Kept]) -> None:
        if records:
            self._calls.remove([kept.key for kept in records])
            self._count(-sum(kept.nbytes for kept in records))

    def _read(self, kept: Kept) -> Record | None:
        """A record that is whole; one that is not is taken out of the way."""
        name = self._holdings.name
        try:
            return self._get(kept)
        except BackendError as error:
            log.warning("tier.record_unread", tier=name, key=kept.key.hex(), reason=str(error))
        except LMCacheError as error:
            reason = str(error)
            log.warning("tier.record_damaged", tier=name, key=kept.key.hex(), reason=reason)
            with suppress(LMCacheError):
                self._calls.quarantine([kept.key], [reason])
        return None

    def _get(self, kept: Kept) -> Record:
        if not HEADER_BYTES < kept.nbytes <= LONGEST_BYTES:
            raise FrameError(f"a record has no {kept.nbytes} bytes")
        frame = memoryview(mmap.mmap(-1, kept.nbytes))
        (length,) = self._calls.get([kept.key], [frame])
        if length is None:
            raise BackendError("it is not there any more")
        record = parse(frame[:length], kept.key)
        if record.instance_id != self._instance_id:
            raise FrameError(f"it is a record of instance {record.instance_id!r}")
        return record

    def _count(self, nbytes: int) -> None:
        with self._holdings.lock:
            self._holdings.residents.record_bytes += nbytes
