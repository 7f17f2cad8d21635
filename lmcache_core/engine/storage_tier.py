"""A tier below host memory: any storage backend, driven from its own threads.

Frames are written through from host memory and read back into slots. The
threads here are the only ones that ever call the backend; what they come to
know is handed to the engine through callbacks, which take the engine's lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from lmcache_core.api import Capability, PutStatus, StorageBackend
from lmcache_core.api.messages import TierStatus
from lmcache_core.engine.backend_calls import BackendCalls
from lmcache_core.engine.breaker import Breaker
from lmcache_core.engine.entry import Entry
from lmcache_core.engine.frame import FrameSeal
from lmcache_core.engine.frame_book import FrameBook
from lmcache_core.engine.pages import Pages
from lmcache_core.engine.piece import Cover, Pieces, cut
from lmcache_core.engine.reading import Read, Verdict, judge
from lmcache_core.engine.recovery import paced
from lmcache_core.engine.residents import Residents
from lmcache_core.engine.sealer import Sealer, Sealing
from lmcache_core.engine.workers import Workers
from lmcache_core.errors import LMCacheError
from lmcache_core.keys import TOKEN_BYTES, Key, KeyChain
from lmcache_core.log import get_logger

log = get_logger(__name__)

RECOVER_SECONDS = 2.0
"""How long opening waits for a store to tell what it has; then it goes on behind."""

READERS = 2
"""Threads that read, so that one verifies what it has while the other waits for the store."""


Callback = Callable[[list[bool]], None]


class _Known(NamedTuple):
    """What the tier knows of a frame that is there."""

    key: Key
    nbytes: int
    tokens: int
    pages: Pages


class StorageTier:
    """One storage backend with its accounting, breaker and threads.

    Args:
        name: The tier's name.
        backend: The store, not opened yet.
        residents: The tier's accounting, read and written under ``lock``.
        seal: Writes and verifies frame headers.
        book: What is known of the frames.
        lock: The engine's lock.
        call_seconds: Deadline of one backend call.
        capabilities: What the backend declares.

    Attributes:
        name: See above.
        outlives_process: Whether another process may find the frames.
        residents: See above.
        breaker: Read and written under the engine's lock.
        counters: Running totals by name.
    """

    def __init__(
        self,
        name: str,
        backend: StorageBackend,
        residents: Residents,
        *,
        seal: FrameSeal,
        book: FrameBook,
        lock: AbstractContextManager[object],
        call_seconds: float,
        capabilities: Capability,
    ) -> None:
        self.name = name
        self.outlives_process = bool(capabilities & (Capability.DURABLE | Capability.SHARED))
        self.residents = residents
        self.breaker = Breaker()
        self.counters = {
            "put_frames": 0,
            "put_failures": 0,
            "put_skipped": 0,
            "read_frames": 0,
            "read_failures": 0,
            "recovered_frames": 0,
            "missing_frames": 0,
            "damaged_frames": 0,
            "evictions": 0,
        }
        self._backend = backend
        self._seal = seal
        self._book = book
        self._lock = lock
        self._calls = BackendCalls(name, backend, call_seconds)
        # What others share changes without us, and what we evict must be ours.
        self._recovers = Capability.SCAN in capabilities and Capability.SHARED not in capabilities
        self._recovered = threading.Event()
        self._closing = False
        self._on_admitted: Callable[[Key], None] = lambda _key: None
        self._on_evicted: Callable[[Key, frozenset[str]], None] = lambda _key, _marks: None
        self._writes = Workers(f"lmcache-{name}-write")
        self._reads = Workers(f"lmcache-{name}-read", READERS)
        self._sealer = Sealer(name, seal)

    def open(
        self,
        *,
        on_admitted: Callable[[Key], None],
        on_evicted: Callable[[Key, frozenset[str]], None],
    ) -> None:
        """Open the backend, start the tier's threads, take in what the store has kept.

        Args:
            on_admitted: Called under the lock with each key that is there
                from now on.
            on_evicted: Called under the lock with each key that has left and
                the marks it carried.

        Raises:
            BackendError: The store cannot be used.
        """
        self._on_admitted = on_admitted
        self._on_evicted = on_evicted
        self._calls.open()
        for part in (self._writes, self._reads, self._sealer):
            part.start()
        if self._recovers:
            # Before anything is written or evicted, so that the bound holds.
            self._writes.submit(self._recover)
            self._recovered.wait(RECOVER_SECONDS)

    def covers(self, chain: KeyChain) -> list[Cover]:
        """The frames that cover a sequence from token 0 on, whole chunks and the exact tail."""
        covers = []
        for piece in Pieces(chain, chain.all_bytes()):
            if piece.key not in self.residents:
                break
            covers.append(Cover(piece.key, len(piece.token_bytes) // TOKEN_BYTES))
        return covers if self._book.rule is None else cut(covers, self._book.usable(covers))

    @property
    def usable(self) -> Callable[[Sequence[Cover]], int] | None:
        """Tells how many tokens of what some frames cover may be a hit; None for all."""
        return None if self._book.rule is None else self._book.usable

    def write(self, entry: Entry, frame: memoryview, done: Callable[[], None]) -> bool:
        """Queue a frame to be written through.

        Args:
            entry: The chunk; its slot must stay as it is until ``done``.
            frame: Its slot.
            done: Called under the lock when the slot is no longer needed.

        Returns:
            False where nothing was queued and ``done`` is never called.
        """
        if not self._wants(entry, frame) or not self._writes.running or not self.breaker.allows():
            return False
        sealing = self._sealer.ahead(entry, frame, self._seal.namespace)
        if self._writes.submit(lambda: self._write(entry, frame, sealing, done)):
            return True
        sealing.end()
        return False

    def read(self, reads: Sequence[Read], done: Callback) -> bool:
        """Queue frames to be read and verified; the caller has asked the breaker.

        Args:
            reads: What to read, into slots that stay reserved until ``done``.
            done: Called under the lock with what became of each.

        Returns:
            False where nothing was queued and ``done`` is never called.
        """
        namespace = self._seal.namespace
        failures = self.breaker.failures
        return self._reads.submit(lambda: self._read(reads, namespace, failures, done))

    def drop(self, keys: Iterable[Key]) -> int:
        """Forget frames and queue them to be removed; return their tokens.

        A frame that the store still has for a while cannot be found any more.
        """
        going = [key for key in keys if key in self.residents]
        tokens = sum(self._book.tokens(key) for key in going)
        for key in going:
            self._forget(key)
        if going:
            self._change_later(going, lambda: self._calls.remove(going))
        return tokens

    def status(self) -> TierStatus:
        """The tier as the controller is told of it."""
        residents = self.residents
        return TierStatus(
            location=self.name,
            kind="storage",
            capacity_bytes=residents.capacity_bytes,
            used_bytes=residents.used_bytes,
            pinned_bytes=residents.pinned_bytes + residents.reserved_bytes,
            entries=len(residents),
            healthy=self._writes.running and self.breaker.healthy,
        )

    def close(self) -> None:
        """Finish what is queued, within a bound, and close the backend."""
        self._closing = True
        opened = self._writes.running
        closed = [part.close() for part in (self._sealer, self._writes, self._reads)]
        if not all(closed):
            log.warning("tier.close_abandoned_call", tier=self.name)
        elif opened:
            try:
                self._backend.close()
            except Exception:
                log.exception("tier.close_failed", tier=self.name)

    def _write(
        self, entry: Entry, frame: memoryview, sealing: Sealing, done: Callable[[], None]
    ) -> None:
        nbytes = None
        try:
            self._remove_poorer(entry, frame)
            if self._make_room(len(frame)):
                sealing.seal()
                nbytes = self._put(entry.key, frame)
        except LMCacheError as error:
            log.warning("tier.put_failed", tier=self.name, error=str(error))
            with self._lock:
                self.breaker.failed()
        sealing.end()
        with self._lock:
            self.counters["put_failures" if nbytes is None else "put_frames"] += 1
            if nbytes is not None and entry.key not in self.residents:
                self.breaker.succeeded()
                if nbytes == len(frame):
                    self._take(entry.key, nbytes, entry.tokens, entry.pages)
                else:
                    self._take(entry.key, nbytes, self._book.tokens_in(nbytes))
            done()

    def _wants(self, entry: Entry, frame: memoryview) -> bool:
        """Whether a chunk is not there, or with fewer pages, which takes fewer bytes."""
        return self.residents.size(entry.key) < len(frame)

    def _remove_poorer(self, entry: Entry, frame: memoryview) -> None:
        """Remove a frame that has fewer pages of a chunk; a store replaces none."""
        with self._lock:
            if entry.key not in self.residents or not self._wants(entry, frame):
                return
            known = self._let_go(entry.key)
        self._remove(known)

    def _recover(self) -> None:
        """Take in what the store has kept, in batches."""
        started = time.monotonic()
        try:
            for batch in paced(self._backend.scan()):
                if self._closing:
                    return
                with self._lock:
                    for key, nbytes in batch:
                        if key not in self.residents:
                            self._take(key, nbytes, self._book.tokens_in(nbytes))
                            self.counters["recovered_frames"] += 1
            self._make_room(0)
        except (Exception, SystemExit) as error:
            # What was found so far is served all the same.
            log.exception("tier.recovery_failed", tier=self.name, error=str(error))
            with self._lock:
                self.breaker.failed()
        finally:
            self._recovered.set()
        if self.counters["recovered_frames"]:
            log.info(
                "tier.recovered",
                tier=self.name,
                frames=self.counters["recovered_frames"],
                seconds=round(time.monotonic() - started, 3),
            )

    def _put(self, key: Key, frame: memoryview) -> int | None:
        """Store a frame; return the length of the one that is there now, None for none."""
        status = self._calls.put(key, frame)
        if status is PutStatus.FULL and self._evict_one():
            status = self._calls.put(key, frame)
        if status is PutStatus.PRESENT and self._book.rule is not None:
            # Another engine's, which may have other pages.
            (nbytes,) = self._calls.stat([key])
            return nbytes
        return len(frame) if status in (PutStatus.STORED, PutStatus.PRESENT) else None

    def _make_room(self, nbytes: int) -> bool:
        residents = self.residents
        if not residents.capacity_bytes:
            return True
        while True:
            with self._lock:
                if residents.used_bytes + nbytes <= residents.capacity_bytes:
                    return True
            if not self._evict_one():
                return False

    def _evict_one(self) -> bool:
        with self._lock:
            key = self.residents.victim()
            if key is None:
                return False
            known = self._let_go(key, evicted=True)
        self._remove(known)
        self.counters["evictions"] += 1
        return True

    def _let_go(self, key: Key, *, evicted: bool = False) -> _Known:
        """Forget a frame that is there, and say what was known of it; the lock is held."""
        book = self._book
        known = _Known(key, self.residents.size(key), book.tokens(key), book.pages(key))
        self._forget(key, evicted=evicted)
        return known

    def _remove(self, known: _Known) -> None:
        """Remove a frame that was let go.

        Raises:
            BackendError: The store did not answer.
        """
        try:
            self._calls.remove([known.key])
        except LMCacheError:
            with self._lock:
                # It is there still, and counts.
                self._take(*known)
            raise

    def _take(self, key: Key, nbytes: int, tokens: int, pages: Pages = None) -> None:
        """Account for a frame that is there."""
        self.residents.add(key, nbytes)
        self._book.keep(key, tokens, pages)
        self._on_admitted(key)

    def _forget(self, key: Key, *, evicted: bool = False) -> None:
        if key in self.residents:
            self._book.forget(key)
            self._on_evicted(key, self.residents.discard(key, evicted=evicted))

    def _change_later(self, keys: Sequence[Key], change: Callable[[], object]) -> None:
        """Queue a change to the store, after the writes that are queued, and forget its keys."""

        def work() -> None:
            with self._lock:
                # A second copy that was queued before may have found them present.
                for key in keys:
                    self._forget(key)
            try:
                change()
            except LMCacheError as error:
                log.warning("tier.change_failed", tier=self.name, error=str(error))
                with self._lock:
                    self.breaker.failed()

        if not self._writes.submit(work):
            log.warning("tier.change_lost", tier=self.name, frames=len(keys))

    def _read(self, reads: Sequence[Read], namespace: bytes, failures: int, done: Callback) -> None:
        whole = [False] * len(reads)
        with self._lock:
            if self.breaker.failures != failures:
                # What was asked for with it has failed; one failure is enough.
                self.counters["read_failures"] += len(reads)
                done(whole)
                return
        try:
            keys = [read.entry.key for read in reads]
            lengths = self._calls.get(keys, [read.frame for read in reads])
        except LMCacheError as error:
            log.warning("tier.read_failed", tier=self.name, error=str(error))
            with self._lock:
                if self.breaker.failures == failures:
                    self.breaker.failed()
                self.counters["read_failures"] += len(reads)
                done(whole)
            return
        verdict = judge(reads, lengths, self._seal, namespace)
        for key, reason in verdict.damaged.items():
            log.warning("tier.frame_damaged", tier=self.name, key=key.hex(), reason=reason)
        with self._lock:
            self.breaker.succeeded()
            self._settle(reads, verdict)
            done(verdict.whole)

    def _settle(self, reads: Sequence[Read], verdict: Verdict) -> None:
        """Account for what reads have come to; the lock is held."""
        damaged = verdict.damaged
        # What was dropped since it was asked for is not missing.
        missing = [read for read in verdict.missing if read.entry.key in self.residents]
        self.counters["read_frames"] += sum(verdict.whole)
        self.counters["damaged_frames"] += len(damaged)
        self.counters["missing_frames"] += len(missing)
        for read, ok in zip(reads, verdict.whole, strict=True):
            key = read.entry.key
            if not ok:
                self._forget(key)
            elif key in self.residents:
                self.residents.touch(key)
                # What it has, it tells when it is read.
                self._book.keep(key, read.entry.tokens, read.entry.pages)
        # Before the chunk can be computed and queued to be written again.
        if damaged:
            keys, reasons = list(damaged), list(damaged.values())
            self._change_later(keys, lambda: self._calls.quarantine(keys, reasons))
        if missing:
            self._change_later((), lambda: self._look_for(missing))

    def _look_for(self, missing: Sequence[Read]) -> None:
        """Tell frames that have vanished from those too long, and take these out of the way."""
        keys = [read.entry.key for read in missing]
        lengths = self._calls.stat(keys)
        longer = {
            read.entry.key: f"frame of {length} bytes, expected {len(read.frame)}"
            for read, length in zip(missing, lengths, strict=True)
            if length is not None and length > len(read.frame)
        }
        with self._lock:
            self.counters["damaged_frames"] += len(longer)
            self.counters["missing_frames"] -= len(longer)
        log.warning("tier.frames_missing", tier=self.name, frames=len(missing), longer=len(longer))
        if longer:
            self._calls.quarantine(list(longer), list(longer.values()))
