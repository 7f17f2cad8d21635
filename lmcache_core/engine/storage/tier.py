"""A tier below host memory: any storage backend, driven from its own threads.

Frames are written from slots of host memory and read back into them. The
threads here are the only ones that ever call the backend; what they come to
know is handed to the engine through callbacks, which take the engine's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

from lmcache_core.api import Capability, StorageBackend
from lmcache_core.api.messages import TierStatus
from lmcache_core.config import TierRules
from lmcache_core.engine.chunks.entry import Entry
from lmcache_core.engine.chunks.piece import Cover, Piece, Pieces, cut
from lmcache_core.engine.chunks.residents import Residents
from lmcache_core.engine.frames.calls import BackendCalls
from lmcache_core.engine.frames.form import FrameForm
from lmcache_core.engine.frames.frame import FrameSeal
from lmcache_core.engine.frames.reading import Read
from lmcache_core.engine.frames.sealer import Sealer, Sealing
from lmcache_core.engine.frames.workers import Workers
from lmcache_core.engine.storage.asker import TierAsker
from lmcache_core.engine.storage.breaker import Breaker
from lmcache_core.engine.storage.frame_book import FrameBook
from lmcache_core.engine.storage.holdings import Holdings, Known
from lmcache_core.engine.storage.host import TierHost
from lmcache_core.engine.storage.opening import Opening
from lmcache_core.engine.storage.reader import Callback, TierReader
from lmcache_core.engine.storage.recoder import TierRecoder
from lmcache_core.engine.storage.record_shelf import RecordShelf, Take, leave_records
from lmcache_core.engine.storage.records import TierRecords
from lmcache_core.engine.storage.recovery import Recovery
from lmcache_core.engine.storage.writer import TierWriter
from lmcache_core.keys import TOKEN_BYTES, Key, KeyChain
from lmcache_core.log import get_logger

log = get_logger(__name__)

RECOVER_SECONDS = 2.0
"""How long opening waits for a store to tell what it has; then it goes on behind."""

REMEMBERED_FRAMES = 1 << 18
"""Of a shared store: the rest is asked for again. 80 MB, at 300 bytes each."""

READERS = 2
"""Threads that read, so that one verifies what it has while the other waits for the store."""


class StorageTier:
    """One storage backend with its accounting, breaker and threads.

    Args:
        name: The tier's name.
        make_backend: Makes the backend of the store, whenever it is to be opened.
        residents: The tier's accounting, read and written under ``lock``.
        seal: Writes frame headers.
        form: How frames are stored.
        book: What is known of the frames.
        lock: The engine's lock.
        call_seconds: Deadline of one backend call.
        capabilities: What the backend declares.
        rules: Which chunks it is to have, and when.
        host: What the backend has been handed.

    Attributes:
        name: See above.
        shared: Whether other engines read and write the store.
        rules: See above.
        outlives_process: Whether another process may find the frames.
        holds: Whether frames that are marked stay; a store that evicts by
            itself, or that others may clear, promises nothing.
        residents: See above.
        records: What it keeps beside the chunks; None where the store is not
            durable, cannot be gone through, or is shared.
        breaker: Read and written under the engine's lock.
        counters: Running totals by name.
        recoder: Encodes in another way what the store has.
    """

    def __init__(
        self,
        name: str,
        make_backend: Callable[[], StorageBackend],
        residents: Residents,
        *,
        seal: FrameSeal,
        form: FrameForm,
        book: FrameBook,
        lock: AbstractContextManager[object],
        call_seconds: float,
        capabilities: Capability,
        rules: TierRules,
        host: TierHost,
    ) -> None:
        shared = self.shared = Capability.SHARED in capabilities
        self.name = name
        self.holds = not shared and Capability.SELF_EVICTING not in capabilities
        self.rules = rules
        self.outlives_process = shared or Capability.DURABLE in capabilities
        self.residents = residents
        self._seal = seal
        self._form = form
        self._book = book
        most_frames = REMEMBERED_FRAMES if shared else None
        self._holdings = Holdings(name, residents, book, lock, most_frames=most_frames)
        self.breaker: Breaker = self._holdings.breaker
        self.counters: dict[str, int] = self._holdings.counters
        self._host = host
        self._on_records: Take = leave_records
        self._calls = BackendCalls(name, make_backend, call_seconds)
        self._opening = Opening(self._holdings, self._calls, self._begin, shared=shared)
        self._writes = Workers(f"lmcache-{name}-write")
        self._reads = Workers(f"lmcache-{name}-read", READERS)
        self._sealer = Sealer(name)
        self._writer = TierWriter(self._holdings, self._calls, form, self._writes, shared=shared)
        self._asker = TierAsker(self._holdings, self._calls, self._reads)
        self._reader = TierReader(
            self._holdings, self._calls, form, self._reads, self._writer, shared=shared
        )
        self.recoder = TierRecoder(
            self._holdings,
            self._calls,
            form.decoder,
            self._writes,
            self._writer,
            seal=seal,
            replaces=Capability.REPLACE in capabilities,
            shared=shared,
        )
        # What others share changes without us, and what we evict must be ours.
        scans = Capability.SCAN in capabilities and not shared
        self._recovery = Recovery(self._holdings, self._calls.scan) if scans else None
        # In a store that others share nothing is held, and what is another's is not gone through.
        self._shelf: RecordShelf | None = None
        self.records: TierRecords | None = None
        if self._recovery is not None and Capability.DURABLE in capabilities:
            self._shelf = RecordShelf(
                self._holdings,
                self._calls,
                instance_id=host.context.instance_id,
                namespace=seal.namespace,
                evict=partial(self._writer.evict, call_seconds),
                trim=self._writer.trim,
            )
            self.records = TierRecords(
                self._holdings,
                self._shelf,
                syncs=Capability.SYNC in capabilities,
                recovered=self._recovery.over,
            )

    def open(
        self,
        *,
        on_admitted: Callable[[Key], None],
        on_evicted: Callable[[Key, frozenset[str]], None],
        on_evicting: Callable[[Known], None],
        on_records: Take = leave_records,
        on_records_lost: Callable[[list[str]], None] = lambda _names: None,
        on_joined: Callable[[], None] = lambda: None,
    ) -> None:
        """Open the backend, start the tier's threads, take in what the store has kept.

        Args:
            on_admitted: Called under the lock with each key that is there
                from now on.
            on_evicted: Called under the lock with each key that has left and
                the marks it carried.
            on_evicting: Called without the lock with each frame that is about
                to be removed to make room, while :meth:`fetch` has it still.
            on_records: Called without the lock with some of the records that
                the store has kept at a time, before anything is written or
                evicted.
            on_records_lost: Called without the lock with the names of records
                that are gone from the store without the tier's doing.
            on_joined: Called without the lock when a store that was left out
                is in use.

        Raises:
            BackendError: The store cannot be used now; :meth:`leave_out` may follow.
            LMCacheError: The tier's section is wrong.
        """
        self._host.attach(self._holdings, self.records)
        if self.records is not None:
            self.records.on_lost = on_records_lost
        self._holdings.on_admitted = on_admitted
        self._holdings.on_evicted = on_evicted
        self._holdings.on_evicting = on_evicting
        self._on_records = on_records
        self._opening.joined = on_joined
        self._opening.open()
        if self._recovery is not None:
            self._recovery.over.wait(RECOVER_SECONDS)

    def leave_out(self, reason: str) -> None:
        """Go on without the store, which could not be opened, and use it once it is there.

        One that keeps pins stays out until the engine is started again: what
        was pinned and released without it, its records do not know.

        Args:
            reason: What it has failed with.
        """
        self._opening.leave_out(reason, again=self.records is None)

    @property
    def away(self) -> str:
        """Why the store is left out, empty where it is not; under the lock."""
        return self._opening.away

    def covers(self, chain: KeyChain) -> list[Cover]:
        """The frames that cover a sequence from token 0 on, whole chunks and the exact tail."""
        covers = []
        for piece in Pieces(chain, chain.all_bytes()):
            if piece.key not in self.residents:
                break
            covers.append(Cover(piece.key, len(piece.token_bytes) // TOKEN_BYTES))
        self._book.learn(covers)
        return covers if self._book.rule is None else cut(covers, self._book.usable(covers))

    def best_cover(self, piece: Piece) -> Cover | None:
        """The frame of a piece, which is found by its own key and nothing shorter is, or None."""
        if piece.key not in self.residents:
            return None
        return Cover(piece.key, len(piece.token_bytes) // TOKEN_BYTES)

    @property
    def usable(self) -> Callable[[Sequence[Cover]], int] | None:
        """Tells how many tokens of what some frames cover may be a hit; None for all."""
        return None if self._book.rule is None else self._book.usable

    def raw_bytes(self, key: Key) -> int | None:
        """Length of a frame as it would lie in a slot; None where that is not known."""
        return self._book.raw_bytes(key)

    def wants(self, key: Key, raw_bytes: int) -> bool:
        """Whether a chunk is not there, or with fewer pages.

        Args:
            key: The chunk.
            raw_bytes: Length of its frame in a slot.
        """
        return self._writer.wants(key, raw_bytes)

    def write(self, entry: Entry, frame: memoryview, done: Callable[[], None]) -> bool:
        """Queue a frame to be written.

        Args:
            entry: The chunk; its slot must stay as it is until ``done``.
            frame: Its slot.
            done: Called under the lock when the slot is no longer needed.

        Returns:
            False where nothing was queued and ``done`` is never called.
        """
        if not (
            self.wants(entry.key, len(frame)) and self._writes.running and self.breaker.allows()
        ):
            return False
        sealing = Sealing(self._seal, entry, frame, self._seal.namespace)
        if not self._writer.write(sealing, done):
            return False
        self._sealer.ahead(sealing)
        return True

    def read(self, reads: Sequence[Read], done: Callback) -> bool:
        """Queue frames to be read and verified; the caller has asked the breaker.

        Args:
            reads: What to read, into slots that stay reserved until ``done``.
            done: Called under the lock with what became of each.

        Returns:
            False where nothing was queued and ``done`` is never called.
        """
        return self._reads.running and self._reader.read(reads, self._seal.namespace, done)

    def ask(self, keys: Sequence[Key], done: Callable[[], None]) -> bool:
        """Queue to look for frames that others may have put there, or taken away.

        The caller has asked the breaker.

        Args:
            keys: Which frames.
            done: Called under the lock when those that are there are known.

        Returns:
            False where nothing was queued and ``done`` is never called.
        """
        return self._reads.running and self._asker.ask(keys, done)

    def fetch(self, read: Read) -> bool:
        """Read and verify a frame that is about to be removed, on the writing thread.

        Raises:
            LMCacheError: The store did not answer.
        """
        return self._form.incoming([read], self._calls, self._seal.namespace).whole[0]

    def note_demotion(self, key: Key) -> None:
        """Count a chunk that was evicted above, now that its write has ended; under the lock."""
        arrived = key in self.residents
        self.counters["demoted_frames" if arrived else "demotions_dropped"] += 1

    def drop(self, keys: Iterable[Key]) -> int:
        """Forget frames and queue them to be removed; return their tokens.

        A frame that the store still has for a while cannot be found any more.
        """
        going = [key for key in keys if key in self.residents]
        tokens = sum(self._book.tokens(key) for key in going)
        for key in going:
            self._holdings.forget(key)
        if going:
            self._writer.change(going, lambda: self._calls.remove(going))
        return tokens

    @property
    def recovered(self) -> bool:
        """Whether the records that the store has kept are known, or never will be."""
        return (
            self.records is None
            or self._recovery is None
            or self._recovery.over.is_set()
            or not self._writes.running
        )

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
            store_id=self._opening.store_id,
            reason=self._opening.away,
        )

    def totals(self) -> Mapping[str, int]:
        """Running totals of the tier and of its backend, by name; under the lock."""
        return {**self.counters, **self._host.totals()}

    def close(self) -> None:
        """Finish what is queued, within a bound, and close the backend and the serdes.

        What is under way after that time is cancelled, and has as much again
        to notice.
        """
        if self._recovery is not None:
            self._recovery.stopping = True
        if not self._end_threads():
            self._calls.cancel()
            if not self._end_threads():
                log.warning("tier.close_abandoned_call", tier=self.name)
                return
        self._calls.close()
        if not self._host.close():
            log.warning("tier.close_abandoned_thread", tier=self.name)
        self._form.close()

    def _end_threads(self) -> bool:
        # What is kept may have to wait for a write that makes room.
        parts = (self._opening, self.records, self._sealer, self._writes, self._reads)
        ended = [part.close() for part in parts if part is not None]
        return all(ended)

    def _begin(self) -> None:
        """Work on the store, which is open."""
        for part in (self._reads, self._sealer, self.records):
            if part is not None:
                part.start()
        recovery = self._recovery
        if recovery is not None:
            # Before anything is written or evicted, so that the bound holds.
            self._writes.submit(
                lambda: recovery.run(self._writer.make_room, self._find_records, self._take_records)
            )
        self._writes.start()

    def _find_records(self, found: Sequence[tuple[Key, int]]) -> None:
        if self._shelf is not None:
            self._shelf.find(found)

    def _take_records(self) -> None:
        if self._shelf is not None:
            self._shelf.take_in(self._on_records)
