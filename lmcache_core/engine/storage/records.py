"""The thread of a storage tier that keeps records beside the chunks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from lmcache_core.engine.storage.holdings import Holdings
from lmcache_core.engine.storage.record_shelf import RecordShelf
from lmcache_core.errors import LMCacheError
from lmcache_core.keys import Key
from lmcache_core.log import get_logger

log = get_logger(__name__)

AT_ONCE = 256
"""Changes that share a sync at most."""

RETRY_SECONDS = 5.0
"""After which what could not be kept is tried again."""

MOST_LOST = 1 << 17
"""Keys that are remembered to be said to be gone; more records than that nobody keeps."""

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


class TierRecords:
    """Changes to the records of a tier, carried out behind.

    A thread of its own does so, because the tier's other threads may have many
    frames before them: changes gather while it works, and share a sync. It
    begins once the store was gone through. What fails is tried again for as
    long as nothing newer is to be said of the name.

    Args:
        holdings: The tier's state.
        shelf: The records.
        syncs: Whether the store has to be synced to be durable.
        recovered: Set once the store was gone through.

    Attributes:
        failing: Whether the last change has failed.
        on_lost: Called without a lock with the names whose records are gone, or
            said to be, and which are to be kept anew.
    """

    def __init__(
        self,
        holdings: Holdings,
        shelf: RecordShelf,
        *,
        syncs: bool,
        recovered: threading.Event,
    ) -> None:
        self.failing = False
        self.on_lost: Callable[[list[str]], None] = lambda _names: None
        self._holdings = holdings
        self._shelf = shelf
        self._syncs = syncs
        self._recovered = recovered
        self._changed = threading.Condition()
        self._pending: dict[str, Change] = {}
        self._failed: dict[str, Change] = {}
        self._lost: set[Key] = set()
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

    def note_lost(self, keys: Iterable[Key]) -> None:
        """What is under some keys is gone, or said to be: records among it are to be kept anew."""
        mine = self._shelf.mine(keys)
        if mine:
            with self._changed:
                if len(self._lost) + len(mine) <= MOST_LOST:
                    self._lost.update(mine)
                self._changed.notify()

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
        self._shelf.end_finding()
        self._shelf.clear_stale()
        while (batch := self._next()) is not None:
            if batch:
                self._change(batch)
            self._have_kept_anew()

    def _change(self, batch: Sequence[Change]) -> None:
        try:
            failures = self._carry_out(batch)
        except Exception as error:
            # Whoever waits must hear of a defect, and the thread go on.
            log.exception("tier.records_failed", tier=self._holdings.name)
            failures = {change.name: f"{type(error).__name__}: {error}" for change in batch}
        self._tell(batch, failures)

    def _next(self) -> list[Change] | None:
        """What is to be done now, nothing where records were lost; None at the end."""
        with self._changed:
            while not (self._pending or self._lost):
                if self._closing:
                    return None
                waited = self._changed.wait(RETRY_SECONDS if self._failed else None)
                if not waited and not self._pending:
                    self._pending, self._failed = self._failed, {}
            names = list(self._pending)[:AT_ONCE]
            return [self._pending.pop(name) for name in names]

    def _carry_out(self, batch: Sequence[Change]) -> dict[str, str]:
        """Make changes, and say of each that has failed why."""
        shelf = self._shelf
        failures: dict[str, str] = {}
        for change in batch:
            try:
                if change.body is not None:
                    shelf.put(change.name, change.body())
                elif change.removes:
                    shelf.remove(change.name)
            except LMCacheError as error:
                failures[change.name] = str(error)
        # A release of what was never kept, or is gone for long, needs no sync.
        syncing = [c.name for c in batch if c.syncs and (shelf.unsynced or not c.removes)]
        if syncing and self._syncs:
            try:
                shelf.sync()
            except LMCacheError as error:
                failures.update((name, str(error)) for name in syncing if name not in failures)
        if not failures:
            # Until the new ones are as durable as was asked, the old ones stay.
            shelf.clear_stale()
        return failures

    def _have_kept_anew(self) -> None:
        """Have records written again that are gone, but for those that are about to change."""
        with self._changed:
            lost, self._lost = self._lost, set()
            # What could not be kept is tried again after a pause, also where that has lost it.
            underway = {*self._pending, *self._failed} if lost else set()
        names = [name for name in self._shelf.names(lost) if name not in underway] if lost else []
        if names:
            log.warning("tier.records_lost", tier=self._holdings.name, records=len(names))
            self.on_lost(names)

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
