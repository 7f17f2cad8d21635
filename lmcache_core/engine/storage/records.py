"""The thread of a storage tier that keeps records beside the chunks."""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable, Sequence
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
from lmcache_core.errors import BackendError, FrameError, LMCacheError
from lmcache_core.keys import Key
from lmcache_core.log import get_logger

log = get_logger(__name__)

AT_ONCE = 256
"""Changes that share a sync at most."""

RETRY_SECONDS = 5.0
"""After which what could not be kept is tried again."""

EVICTIONS = 8
"""Chunks that make room for one record at most, where the store is full."""

CLOSE_SECONDS = 2.0

Done = Callable[[str | None], None]
Body = Callable[[], bytes]


class Change(NamedTuple):
    """What is to become of the record of a name.

    Attributes:
        name: The record's.
        body: Makes what it is to say; None where nothing is to be written.
        removes: Whether the record goes.
        syncs: Whether it counts only once all of the store is durable.
        done: Told what has failed, or None.
    """

    name: str
    body: Body | None
    removes: bool
    syncs: bool
    done: tuple[Done, ...]

    def after(self, old: Change | None) -> Change:
        """This change where another of the same name has not begun yet."""
        if old is None:
            return self
        said = self if self.body is not None or self.removes else old
        return Change(
            self.name, said.body, said.removes, self.syncs or old.syncs, old.done + self.done
        )


class Kept(NamedTuple):
    """Where the record of a name is."""

    key: Key
    nbytes: int


class TierRecords:
    """Records by name, each put before the one it takes the place of is removed.

    A thread of its own does so, because the tier's other threads may have many
    frames before them: changes gather while it works, and share a sync. It
    begins once the store was gone through. What fails is tried again for as
    long as nothing newer is to be said of the name.

    Args:
        holdings: The tier's state.
        calls: The store.
        instance_id: Whose records these are.
        namespace: Digest of the engine's namespace, for the frames.
        syncs: Whether the store has to be synced to be durable.
        recovered: Set once the store was gone through.
        evict: Lets a chunk make room and returns when it has.
        trim: Lets what is above the tier's bound be evicted, and does not wait.

    Attributes:
        failing: Whether the last change has failed.
    """

    def __init__(
        self,
        holdings: Holdings,
        calls: BackendCalls,
        *,
        instance_id: str,
        namespace: bytes,
        syncs: bool,
        recovered: threading.Event,
        evict: Callable[[], None],
        trim: Callable[[], None],
    ) -> None:
        self.failing = False
        self._holdings = holdings
        self._calls = calls
        self._instance_id = instance_id
        self._namespace = namespace
        self._syncs = syncs
        self._recovered = recovered
        self._evict = evict
        self._trim = trim
        self._changed = threading.Condition()
        self._pending: dict[str, Change] = {}
        self._failed: dict[str, Change] = {}
        self._kept: dict[str, Kept] = {}
        self._stale: list[tuple[str, Kept]] = []
        self._stamp = 0
        self._unsynced = False  # Whether a record was removed since the last sync.
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        name = f"lmcache-{self._holdings.name}-records"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> bool:
        """Finish what is queued, within a bound; False where the thread is still busy."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)
            if self._thread.is_alive():
                return False
            self._thread = None
        return True

    def keep(self, name: str, body: Body, done: Done, *, syncs: bool) -> None:
        """Queue a record; it takes the place of the one there is of its name.

        Args:
            name: The record's.
            body: Makes what it says, on the thread.
            done: Called under the engine's lock each time it was tried, with
                what has failed or None.
            syncs: Whether all that was put into the store before is to be
                durable when ``done`` is called.
        """
        self._queue(Change(name, body, removes=False, syncs=syncs, done=(done,)))

    def remove(self, name: str, done: Done, *, syncs: bool) -> None:
        """Queue that a record goes; ``done`` and ``syncs`` as for :meth:`keep`."""
        self._queue(Change(name, None, removes=True, syncs=syncs, done=(done,)))

    def sync(self, name: str, done: Done) -> None:
        """Queue that all that was put is durable; ``done`` as for :meth:`keep`."""
        self._queue(Change(name, None, removes=False, syncs=True, done=(done,)))

    def take_in(
        self, keys: Sequence[tuple[Key, int]], take: Callable[[list[Record], float], list[str]]
    ) -> None:
        """Read what the store has kept of this instance; on the thread that goes through it.

        Args:
            keys: The keys of records and their lengths, anybody's.
            take: Called with the latest record of each name and the Unix time
                of the latest of all; names those that are of no use any more.
        """
        mine = [Kept(*found) for found in keys if is_records_of(found[0], self._instance_id)]
        if len(mine) < len(keys):
            others = len(keys) - len(mine)
            log.warning("tier.records_of_others", tier=self._holdings.name, records=others)
        latest: dict[str, Record] = {}
        whole = [(record, kept) for kept in mine if (record := self._read(kept)) is not None]
        for record, kept in sorted(whole, key=lambda found: found[0].stamp):
            self._note(record.name, kept)
            latest[record.name] = record
            self._stamp = record.stamp
        for name in take(list(latest.values()), self._stamp / 1e9):
            self._stale.append((name, self._kept.pop(name)))

    def _queue(self, change: Change) -> None:
        if self._thread is None or self._closing:
            for done in change.done:
                done(f"{self._holdings.name} is not open")
            return
        with self._changed:
            self._failed.pop(change.name, None)
            self._pending[change.name] = change.after(self._pending.get(change.name))
            self._changed.notify()

    def _run(self) -> None:
        self._recovered.wait()
        self._clear_stale()
        while (batch := self._next()) is not None:
            try:
                failures = self._carry_out(batch)
            except Exception as error:
                # Whoever waits must hear of a defect, and the thread go on.
                log.exception("tier.records_failed", tier=self._holdings.name)
                failures = {change.name: f"{type(error).__name__}: {error}" for change in batch}
            self._tell(batch, failures)

    def _next(self) -> list[Change] | None:
        """What is to be done now; None at the end."""
        with self._changed:
            while not self._pending:
                if self._closing:
                    return None
                waited = self._changed.wait(RETRY_SECONDS if self._failed else None)
                if not waited and not self._pending:
                    self._pending, self._failed = self._failed, {}
            names = list(self._pending)[:AT_ONCE]
            return [self._pending.pop(name) for name in names]

    def _carry_out(self, batch: Sequence[Change]) -> dict[str, str]:
        """Make changes, and say of each that has failed why."""
        failures: dict[str, str] = {}
        for change in batch:
            try:
                if change.body is not None:
                    self._put(change.name, change.body())
                elif change.removes:
                    self._remove(change.name)
            except LMCacheError as error:
                failures[change.name] = str(error)
        # A release of what was never kept, or is gone for long, needs no sync.
        syncing = [c.name for c in batch if c.syncs and (self._unsynced or not c.removes)]
        if syncing and self._syncs:
            try:
                self._calls.sync()
                self._unsynced = False
            except LMCacheError as error:
                failures.update((name, str(error)) for name in syncing if name not in failures)
        if not failures:
            # Until the new ones are as durable as was asked, the old ones stay.
            self._clear_stale()
        return failures

    def _tell(self, batch: Sequence[Change], failures: dict[str, str]) -> None:
        if failures:
            reason = next(iter(failures.values()))
            name = self._holdings.name
            log.warning("tier.records_not_kept", tier=name, records=len(failures), reason=reason)
            with self._changed:
                for change in batch:
                    if change.name in failures and change.name not in self._pending:
                        self._failed[change.name] = change
        self.failing = bool(failures)
        with self._holdings.lock:
            for change in batch:
                for done in change.done:
                    done(failures.get(change.name))

    def _put(self, name: str, body: bytes) -> None:
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

    def _note(self, name: str, kept: Kept) -> None:
        """A record is there that takes the place of the one there was."""
        self._count(kept.nbytes)
        old = self._kept.get(name)
        if old is not None:
            self._stale.append((name, old))
        self._kept[name] = kept

    def _remove(self, name: str) -> None:
        # The latest goes last, or else an older one would count for a while.
        self._drop([kept for stale, kept in self._stale if stale == name])
        self._stale = [found for found in self._stale if found[0] != name]
        if name in self._kept:
            self._drop([self._kept[name]])
            del self._kept[name]
            self._unsynced = True

    def _clear_stale(self) -> None:
        with suppress(LMCacheError):  # They are removed with the next change.
            self._drop([kept for _, kept in self._stale])
            self._stale.clear()

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
