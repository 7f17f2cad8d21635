"""The threads of a storage tier that ask a shared store what it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lmcache_core.engine.frames.calls import BackendCalls
from lmcache_core.engine.frames.workers import Workers
from lmcache_core.engine.storage.holdings import Holdings, Known
from lmcache_core.errors import LMCacheError
from lmcache_core.keys import Key
from lmcache_core.log import get_logger

log = get_logger(__name__)


class TierAsker:
    """Looks in a store for frames that others may have put there.

    Args:
        holdings: The tier's state.
        calls: The store.
        workers: The threads; started and closed by the tier.
    """

    def __init__(self, holdings: Holdings, calls: BackendCalls, workers: Workers) -> None:
        self._holdings = holdings
        self._calls = calls
        self._workers = workers

    def ask(self, keys: Sequence[Key], done: Callable[[], None]) -> bool:
        """Queue a question, answered in one call; the lock is held, the breaker was asked.

        Args:
            keys: Which frames; those that are known and not there are forgotten.
            done: Called under the lock when those that are there are known.

        Returns:
            False where nothing was queued and ``done`` is never called.
        """
        failures = self._holdings.breaker.failures
        return self._workers.submit(lambda: self._ask(keys, failures, done))

    def _ask(self, keys: Sequence[Key], failures: int, done: Callable[[], None]) -> None:
        holdings = self._holdings
        with holdings.lock:
            if holdings.breaker.failures != failures:
                # What was asked with it has failed; one failure is enough.
                holdings.counters["ask_failures"] += 1
                done()
                return
        lengths: Sequence[object] = ()
        try:
            lengths = self._calls.stat(keys)
        except LMCacheError as error:
            log.warning("tier.ask_failed", tier=holdings.name, error=str(error))
        with holdings.lock:
            if lengths:
                holdings.breaker.succeeded()
                self._take_in(keys, lengths)
            else:
                holdings.counters["ask_failures"] += 1
                if holdings.breaker.failures == failures:
                    holdings.breaker.failed()
            done()

    def _take_in(self, keys: Sequence[Key], lengths: Sequence[object]) -> None:
        holdings = self._holdings
        holdings.counters["asked_frames"] += len(keys)
        for key, nbytes in zip(keys, lengths, strict=True):
            if nbytes is None and key in holdings.residents:
                holdings.forget(key)
            # A store may answer anything.
            if type(nbytes) is not int or nbytes <= 0 or holdings.is_foreign(key):
                continue
            if key not in holdings.residents:
                holdings.take(Known(key, nbytes, holdings.book.found))
                holdings.counters["found_frames"] += 1
