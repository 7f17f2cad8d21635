"""The thread of a storage tier that changes its store: writes, evictions, removals."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from lmcache_core.api import PutStatus
from lmcache_core.engine.chunks.entry import Entry
from lmcache_core.engine.frames.calls import BackendCalls
from lmcache_core.engine.frames.form import FrameForm
from lmcache_core.engine.frames.sealer import Sealing
from lmcache_core.engine.frames.workers import Workers
from lmcache_core.engine.storage.frame_book import Facts
from lmcache_core.engine.storage.holdings import Holdings, Known
from lmcache_core.errors import LMCacheError, SerdeError
from lmcache_core.keys import Key
from lmcache_core.log import get_logger

log = get_logger(__name__)


class TierWriter:
    """Puts frames into a store, within the tier's bound, and takes them out of it.

    One thread does so in the order in which it was asked: what is removed
    after a write is removed from what the write has left.

    Args:
        holdings: The tier's state.
        calls: The store.
        form: How frames are stored.
        worker: The thread; started and closed by the tier.
        shared: Whether others use the store; what is evicted is forgotten
            then and removed by nobody, because it may be another's.
    """

    def __init__(
        self,
        holdings: Holdings,
        calls: BackendCalls,
        form: FrameForm,
        worker: Workers,
        *,
        shared: bool,
    ) -> None:
        self._holdings = holdings
        self._calls = calls
        self._form = form
        self._worker = worker
        self._shared = shared

    def wants(self, key: Key, raw_bytes: int) -> bool:
        """Whether a chunk is not there, or with fewer pages, which takes fewer bytes.

        The engine's lock is held.

        Args:
            key: The chunk.
            raw_bytes: Length of its frame in a slot.
        """
        if key not in self._holdings.residents:
            return not self._holdings.is_foreign(key)
        there = self._holdings.book.raw_bytes(key)
        return there is not None and there < raw_bytes

    def write(self, sealing: Sealing, done: Callable[[], None]) -> bool:
        """Queue a frame to be written.

        Args:
            sealing: The frame, whose slot stays as it is until ``done``.
            done: Called under the lock when the slot is no longer needed.

        Returns:
            False where too many wait; ``done`` is never called then.
        """
        return self._worker.submit(lambda: self._write(sealing, done))

    def change(self, keys: Sequence[Key], change: Callable[[], object]) -> None:
        """Queue a change to the store, after the writes that are queued, and forget its keys."""
        holdings = self._holdings

        def work() -> None:
            with holdings.lock:
                # A second copy that was queued before may have found them present.
                for key in keys:
                    holdings.forget(key)
            try:
                change()
            except LMCacheError as error:
                log.warning("tier.change_failed", tier=holdings.name, error=str(error))
                with holdings.lock:
                    holdings.breaker.failed()

        if not self._worker.submit(work):
            log.warning("tier.change_lost", tier=holdings.name, frames=len(keys))

    def make_room(self, nbytes: int) -> bool:
        """Evict until so many bytes fit; on the writing thread.

        Returns:
            False where what is left may not go.

        Raises:
            LMCacheError: The store did not answer.
        """
        residents = self._holdings.residents
        if not residents.capacity_bytes:
            return True
        while True:
            with self._holdings.lock:
                used = residents.used_bytes + residents.record_bytes
                if used + nbytes <= residents.capacity_bytes:
                    return True
            if not self._evict_one():
                # A shared store bounds itself; ours is only what we remember of it.
                return self._shared

    def evict(self, wait_seconds: float) -> None:
        """Let a chunk go, for what is no chunk, and wait until it has.

        Args:
            wait_seconds: For how long at most.
        """
        over = threading.Event()

        def work() -> None:
            try:
                self._evict_one()
            except LMCacheError as error:
                log.warning("tier.evict_failed", tier=self._holdings.name, error=str(error))
            finally:
                over.set()

        if self._worker.submit(work):
            over.wait(wait_seconds)

    def trim(self) -> None:
        """Evict what is above the bound, behind the writes that are queued; nobody waits for it."""

        def work() -> None:
            try:
                self.make_room(0)
            except LMCacheError as error:
                log.warning("tier.evict_failed", tier=self._holdings.name, error=str(error))

        # Where too many writes wait, the next of them evicts as much.
        self._worker.submit(work)

    def _write(self, sealing: Sealing, done: Callable[[], None]) -> None:
        holdings = self._holdings
        entry, known, failure = sealing.entry, None, "put_failures"
        with holdings.lock:
            wanted = self.wants(entry.key, len(sealing.frame))
        if not wanted:
            # Somebody else's write of it was queued before.
            sealing.end()
            with holdings.lock:
                done()
            return
        try:
            stored = self._form.outgoing(sealing)
            self._remove_poorer(entry, sealing.frame)
            if self.make_room(len(stored)):
                known = self._put(entry, stored)
        except SerdeError as error:
            log.warning("tier.encode_failed", tier=holdings.name, error=str(error))
            failure = "encode_failures"
        except LMCacheError as error:
            log.warning("tier.put_failed", tier=holdings.name, error=str(error))
            with holdings.lock:
                holdings.breaker.failed()
        sealing.end()
        with holdings.lock:
            holdings.counters[failure if known is None else "put_frames"] += 1
            if known is not None and entry.key not in holdings.residents:
                holdings.breaker.succeeded()
                holdings.take(known)
            done()

    def _put(self, entry: Entry, stored: memoryview) -> Known | None:
        """Store a frame; return the one that is there now, None for none."""
        ours = Known(entry.key, len(stored), Facts(entry.tokens, entry.pages))
        status = self._calls.put(entry.key, stored)
        if status is PutStatus.FULL and not self._shared and self._evict_one():
            status = self._calls.put(entry.key, stored)
        book = self._holdings.book
        if status is PutStatus.PRESENT and book.lengths_differ:
            # Another engine's, which may have other pages.
            (nbytes,) = self._calls.stat([entry.key])
            if nbytes is None:
                return None
            return Known(entry.key, nbytes, book.present(entry, nbytes, len(stored)))
        return ours if status in (PutStatus.STORED, PutStatus.PRESENT) else None

    def _remove_poorer(self, entry: Entry, frame: memoryview) -> None:
        """Remove a frame that has fewer pages of a chunk; a store replaces none."""
        holdings = self._holdings
        with holdings.lock:
            if entry.key not in holdings.residents or not self.wants(entry.key, len(frame)):
                return
            known = holdings.let_go(entry.key)
        self._remove(known)

    def _evict_one(self) -> bool:
        holdings = self._holdings
        with holdings.lock:
            if self._shared:
                return holdings.forget_one()
            key = holdings.residents.victim()
            if key is None:
                return False
            known = holdings.let_go(key, evicted=True)
        holdings.on_evicting(known)
        self._remove(known)
        holdings.counters["evictions"] += 1
        return True

    def _remove(self, known: Known) -> None:
        """Remove a frame that was let go.

        Raises:
            BackendError: The store did not answer.
        """
        try:
            self._calls.remove([known.key])
        except LMCacheError:
            with self._holdings.lock:
                # It is there still, and counts.
                self._holdings.take(known)
            raise
