"""The threads of a storage tier that read its store."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lmcache_core.engine.frames.calls import BackendCalls
from lmcache_core.engine.frames.form import FrameForm
from lmcache_core.engine.frames.reading import Read, Verdict
from lmcache_core.engine.frames.workers import Workers
from lmcache_core.engine.storage.frame_book import Facts
from lmcache_core.engine.storage.holdings import Holdings
from lmcache_core.engine.storage.writer import TierWriter
from lmcache_core.errors import LMCacheError
from lmcache_core.log import get_logger

log = get_logger(__name__)

Callback = Callable[[list[bool]], None]


class TierReader:
    """Reads frames into slots, verifies them, and has what is spoilt taken away.

    Args:
        holdings: The tier's state.
        calls: The store.
        form: How frames are stored.
        workers: The threads; started and closed by the tier.
        writer: Changes the store.
        shared: Whether others use the store, whose frames are left to them.
    """

    def __init__(
        self,
        holdings: Holdings,
        calls: BackendCalls,
        form: FrameForm,
        workers: Workers,
        writer: TierWriter,
        *,
        shared: bool,
    ) -> None:
        self._holdings = holdings
        self._calls = calls
        self._form = form
        self._workers = workers
        self._writer = writer
        self._shared = shared

    def read(self, reads: Sequence[Read], namespace: bytes, done: Callback) -> bool:
        """Queue frames to be read and verified; the lock is held.

        They are kept from eviction meanwhile: making room for what is read
        can send chunks of host memory down to this very tier.

        Args:
            reads: What to read, into slots that stay reserved until ``done``.
            namespace: What the frames have to be bound to.
            done: Called under the lock with what became of each.

        Returns:
            False where nothing was queued and ``done`` is never called.
        """
        holdings = self._holdings
        failures = holdings.breaker.failures
        keys = [read.entry.key for read in reads]

        def end(whole: list[bool]) -> None:
            for key in keys:
                holdings.residents.let_go(key)
            done(whole)

        if not self._workers.submit(lambda: self._read(reads, namespace, failures, end)):
            return False
        for key in keys:
            holdings.residents.hold(key)
        return True

    def _read(self, reads: Sequence[Read], namespace: bytes, failures: int, done: Callback) -> None:
        holdings = self._holdings
        nothing = [False] * len(reads)
        with holdings.lock:
            if holdings.breaker.failures != failures:
                # What was asked for with it has failed; one failure is enough.
                holdings.counters["read_failures"] += len(reads)
                done(nothing)
                return
        try:
            verdict = self._form.incoming(reads, self._calls, namespace)
        except LMCacheError as error:
            log.warning("tier.read_failed", tier=holdings.name, error=str(error))
            with holdings.lock:
                if holdings.breaker.failures == failures:
                    holdings.breaker.failed()
                holdings.counters["read_failures"] += len(reads)
                done(nothing)
            return
        self._leave_to_others(verdict)
        for key, reason in verdict.damaged.items():
            log.warning("tier.frame_damaged", tier=holdings.name, key=key.hex(), reason=reason)
        for key, reason in verdict.foreign.items():
            log.info("tier.frame_foreign", tier=holdings.name, key=key.hex(), reason=reason)
        with holdings.lock:
            holdings.breaker.succeeded()
            self._settle(reads, verdict)
            done(verdict.whole)

    def _leave_to_others(self, verdict: Verdict) -> None:
        """What serdes refuse is damage in a store of our own; others may have other keys."""
        mine = verdict.foreign if self._shared else verdict.damaged
        mine.update(verdict.refused)

    def _settle(self, reads: Sequence[Read], verdict: Verdict) -> None:
        """Account for what reads have come to; the lock is held."""
        holdings = self._holdings
        counters, residents = holdings.counters, holdings.residents
        damaged, foreign = verdict.damaged, list(verdict.foreign)
        # What was dropped since it was asked for is not missing.
        missing = [read for read in verdict.missing if read.entry.key in residents]
        counters["read_frames"] += sum(verdict.whole)
        counters["damaged_frames"] += len(damaged)
        counters["foreign_frames"] += len(foreign)
        for read, ok in zip(reads, verdict.whole, strict=True):
            entry = read.entry
            if not ok:
                holdings.forget(entry.key)
            elif entry.key in residents:
                residents.touch(entry.key)
                # What it has, it tells when it is read.
                holdings.book.keep(entry.key, Facts(entry.tokens, entry.pages))
        # Before the chunk can be computed and queued to be written again.
        if damaged:
            keys, reasons = list(damaged), list(damaged.values())
            self._writer.change(keys, lambda: self._calls.quarantine(keys, reasons))
        if foreign and self._shared:
            for key in foreign:
                holdings.note_foreign(key)
        elif foreign:
            self._writer.change(foreign, lambda: self._calls.remove(foreign))
        if missing:
            self._writer.change((), lambda: self._look_for(missing))

    def _look_for(self, missing: Sequence[Read]) -> None:
        """Tell frames that have vanished from those too long, and take these out of the way."""
        holdings = self._holdings
        try:
            lengths = self._calls.stat([read.entry.key for read in missing])
        except LMCacheError:
            with holdings.lock:
                holdings.counters["missing_frames"] += len(missing)
            raise
        longer = {
            read.entry.key: f"frame of {length} bytes, expected {self._form.longest(read)}"
            for read, length in zip(missing, lengths, strict=True)
            if length is not None and length > self._form.longest(read)
        }
        with holdings.lock:
            holdings.counters["damaged_frames"] += len(longer)
            holdings.counters["missing_frames"] += len(missing) - len(longer)
        log.warning(
            "tier.frames_missing", tier=holdings.name, frames=len(missing), longer=len(longer)
        )
        if longer:
            self._calls.quarantine(list(longer), list(longer.values()))
