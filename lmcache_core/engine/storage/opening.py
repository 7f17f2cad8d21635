"""Opening a tier's store: when the engine starts, or later, once it is there."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from lmcache_core.engine.frames.calls import BackendCalls
from lmcache_core.engine.storage.holdings import Holdings
from lmcache_core.errors import LMCacheError
from lmcache_core.log import get_logger

log = get_logger(__name__)

LONGEST_REASON = 1000
"""Characters of a failure that every heartbeat carries to the controller."""

CLOSE_SECONDS = 2.0
"""How long closing waits for a try that is under way."""


class Opening:
    """Opens the store of one tier, and tries again behind where it was away at the start.

    Until the store is open the tier's breaker is, so that nobody asks for
    anything. The pauses between tries are the breaker's, less up to a half, so
    that a fleet does not knock in step at a server that has come back.

    Args:
        holdings: The tier's state.
        calls: The store.
        begin: Starts the threads that work on the open store.
        shared: Whether other engines use it.

    Attributes:
        store_id: What a shared store is called, once it is open.
        away: Why it could not be opened when that was tried last; empty once
            it is open. Read and written under the engine's lock.
        joined: Called without the lock when a store that was away is in use.
    """

    def __init__(
        self,
        holdings: Holdings,
        calls: BackendCalls,
        begin: Callable[[], None],
        *,
        shared: bool,
    ) -> None:
        self.store_id = ""
        self.away = ""
        self.joined: Callable[[], None] = lambda: None
        self._holdings = holdings
        self._calls = calls
        self._begin = begin
        self._shared = shared
        self._beginning = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Open the store and begin to work on it.

        Raises:
            LMCacheError: It cannot be used.
        """
        self._try()
        self._begin()

    def leave_out(self, reason: str, *, again: bool) -> None:
        """Go on without the store, which could not be opened.

        Args:
            reason: What it has failed with.
            again: Whether it is tried again until it is there.
        """
        name = self._holdings.name
        until = "it can be opened" if again else "the engine is started again"
        log.error("tier.left_out", tier=name, reason=reason, until=until)
        self._note_away(reason)
        if again:
            # A daemon: a store that never answers must not keep the serving process from exiting.
            self._thread = threading.Thread(
                target=self._run, name=f"lmcache-{name}-open", daemon=True
            )
            self._thread.start()

    def close(self) -> bool:
        """Try no more; False where a try is still under way, which opens nothing any more."""
        with self._beginning:
            self._stopping.set()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)
            return not self._thread.is_alive()
        return True

    def _run(self) -> None:
        began = time.monotonic()
        while not self._stopping.wait(self._pause_seconds()):
            try:
                self._try()
            except LMCacheError as error:
                self._note_away(str(error))
                continue
            if self._join():
                seconds = round(time.monotonic() - began, 3)
                log.info("tier.joined", tier=self._holdings.name, away_seconds=seconds)
                self.joined()
            return

    def _join(self) -> bool:
        """Begin to work on the store, which is open; False where the tier has closed meanwhile."""
        with self._beginning:
            if self._stopping.is_set():
                self._calls.close()
                return False
            with self._holdings.lock:
                self.away = ""
                self._holdings.breaker.succeeded()
            self._begin()
            return True

    def _try(self) -> None:
        self._calls.open()
        if self._shared:
            self.store_id = self._calls.store_id()

    def _note_away(self, reason: str) -> None:
        holdings = self._holdings
        with holdings.lock:
            self.away = reason[:LONGEST_REASON]
            holdings.counters["open_failures"] += 1
            holdings.breaker.failed()

    def _pause_seconds(self) -> float:
        with self._holdings.lock:
            pause = self._holdings.breaker.pause_seconds
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
