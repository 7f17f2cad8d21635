"""What has changed in the ledger on its way to the file, many changes in one commit."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from lmcache_core.api.deadline import Deadline
from lmcache_core.controller.failures import LedgerFullError, LedgerUnavailableError
from lmcache_core.controller.ledger_file import Change, LedgerFile, damaged, unwritable
from lmcache_core.errors import ConfigError, DeadlineExceededError
from lmcache_core.log import get_logger

log = get_logger(__name__)

LAZY_SECONDS = 0.5
"""How long a change that nobody waits for may wait for one that somebody does."""

RETRY_SECONDS = 1.0
CLOSE_SECONDS = 5.0

Failure = LedgerFullError | LedgerUnavailableError
RecordT = TypeVar("RecordT", bound=msgspec.Struct)
Source = Callable[[str], msgspec.Struct | None]


class Batch(NamedTuple):
    """What one commit writes.

    Attributes:
        names: Tables and keys.
        changes: The records of that time.
        began: Monotonic time.
    """

    names: dict[tuple[str, str], None]
    changes: list[Change]
    began: float


class Journal:
    """Names of records that are to be written; one thread writes them.

    It keeps names, not records: a record is read when its commit begins, so
    that it is written once however often it has changed, and what waits is
    bounded by what there is. All that changes between two awaits is in one
    commit. While a commit runs, changes gather for the next.

    Everything but the file is used on one event loop.

    Args:
        file: Where records are kept, or None to keep none; closed with the journal.

    Attributes:
        commits: Commits that have succeeded.
        seconds: What they took, altogether.
        failures: Commits that have failed.
        failure: Why the last one failed, or None.
    """

    def __init__(self, file: LedgerFile | None = None) -> None:
        self._file = file
        self._sources: dict[str, Source] = {}
        self._names: dict[tuple[str, str], None] = {}
        self._hurried = False
        self._gathering: asyncio.Future[Failure | None] | None = None
        self._writing: asyncio.Future[Failure | None] | None = None
        self._alarm: asyncio.Handle | None = None
        self._batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.commits = 0
        self.seconds = 0.0
        self.failures = 0
        self.failure: Failure | None = None

    @property
    def is_durable(self) -> bool:
        """Whether there is a file."""
        return self._file is not None

    def read(self, table: str, kind: type[RecordT]) -> Iterator[tuple[str, RecordT]]:
        """The records of a table as they were kept.

        Raises:
            ConfigError: One cannot be read.
        """
        if self._file is None:
            return
        decoder = msgspec.msgpack.Decoder(kind)
        for key, record in self._file.read(table):
            try:
                yield key, decoder.decode(record)
            except msgspec.DecodeError as error:
                raise self.damaged(table, key, str(error)) from error

    def damaged(self, table: str, key: str, reason: str) -> ConfigError:
        """The failure of a record that makes no sense."""
        path = self._file.path if self._file else Path()
        return damaged(path, f"the record {key!r} of {table} cannot be used: {reason}")

    def source(self, table: str, read: Source) -> None:
        """Say who has a table's records; None is one that is not kept any more."""
        self._sources[table] = read

    def note(self, table: str, key: str, *, lazily: bool = False) -> None:
        """A record has changed.

        Args:
            table: Its table.
            key: Its key.
            lazily: Whether it may wait for a commit that is made anyway.
        """
        if self._file is None:
            return
        self._names[table, key] = None
        if not lazily:
            self._hurry()
        elif self._alarm is None and self._writing is None:
            self._alarm = asyncio.get_running_loop().call_later(LAZY_SECONDS, self._begin)

    async def synced(self, deadline: Deadline) -> None:
        """Wait until everything that has changed so far is on the disk.

        Raises:
            LedgerFullError: The disk is full; it is tried again by itself.
            LedgerUnavailableError: It could not be written; it is tried again by itself.
            DeadlineExceededError: It takes longer.
        """
        if self._names:
            self._hurry()
            if self._gathering is None:
                self._gathering = asyncio.get_running_loop().create_future()
        commit = self._gathering if self._names else self._writing
        if commit is None:
            return
        try:
            async with asyncio.timeout(deadline.remaining_seconds):
                failure = await asyncio.shield(commit)
        except TimeoutError as error:
            what = "the ledger's commit"
            raise DeadlineExceededError(what, deadline.seconds) from error
        if failure is not None:
            raise type(failure)(str(failure)) from failure

    async def close(self) -> None:
        """Write what is left, within a bound, and let go of the file; idempotent."""
        if self._file is None:
            return
        try:
            await self.synced(Deadline(CLOSE_SECONDS))
        except (LedgerFullError, LedgerUnavailableError, DeadlineExceededError) as error:
            log.warning("ledger.left_unwritten", records=len(self._names), reason=str(error))
        if self._alarm is not None:
            self._alarm.cancel()
        self._batches.put(None)
        # A commit that is stuck in the kernel keeps the thread, and the file.
        if self._writing is None:
            if self._thread is not None:
                self._thread.join(CLOSE_SECONDS)
            self._file.close()
        self._file = self._thread = None

    def _hurry(self) -> None:
        if not self._hurried and self._writing is None:
            if self._alarm is not None:
                self._alarm.cancel()
            # Not at once: what else this turn of the loop changes goes with it.
            self._alarm = asyncio.get_running_loop().call_soon(self._begin)
        self._hurried = True

    def _begin(self) -> None:
        """Hand what has gathered to the thread."""
        self._alarm = None
        if self._file is None or self._writing or not self._names:
            return
        loop = asyncio.get_running_loop()
        if self._thread is None:
            # With an executor a commit takes the processor 0.2 ms longer, by measurement.
            self._thread = threading.Thread(
                target=self._run, args=(self._file, loop), name="lmcache-ledger", daemon=True
            )
            self._thread.start()
        changes = [Change(table, key, self._record(table, key)) for table, key in self._names]
        names, self._names = self._names, {}
        self._writing = self._gathering or loop.create_future()
        self._gathering, self._hurried = None, False
        self._batches.put(Batch(names, changes, time.monotonic()))

    def _run(self, file: LedgerFile, loop: asyncio.AbstractEventLoop) -> None:
        """Be the thread that writes."""
        while (batch := self._batches.get()) is not None:
            failure = self._write(file, batch.changes)
            with contextlib.suppress(RuntimeError):  # The loop has ended without a close.
                loop.call_soon_threadsafe(self._end, batch, failure)

    def _record(self, table: str, key: str) -> bytes | None:
        record = self._sources[table](key)
        return None if record is None else msgspec.msgpack.encode(record)

    @staticmethod
    def _write(file: LedgerFile, changes: list[Change]) -> Failure | None:
        try:
            file.write(changes)
        except (LedgerFullError, LedgerUnavailableError) as error:
            return error
        except Exception as error:
            log.exception("ledger.write_crashed")
            return unwritable(file.path, f"{type(error).__name__}: {error}")
        return None

    def _end(self, batch: Batch, failure: Failure | None) -> None:
        """A commit has ended."""
        written, self._writing = self._writing, None
        if failure is None:
            self.commits += 1
            self.seconds += time.monotonic() - batch.began
            if self.failure is not None:
                log.info("ledger.recovered")
        else:
            self.failures += 1
            log.error("ledger.not_written", records=len(batch.names), reason=str(failure))
            # They stay to be written, as they will be then.
            self._names = batch.names | self._names
        self.failure = failure
        if written is not None and not written.done():
            written.set_result(failure)
        if self._hurried:
            self._begin()
        elif self._names and self._alarm is None:
            wait = LAZY_SECONDS if failure is None else RETRY_SECONDS
            self._alarm = asyncio.get_running_loop().call_later(wait, self._begin)
