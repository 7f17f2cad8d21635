"""Encoding in another way what a storage tier holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from lmcache_core.api.frames import HEADER_BYTES
from lmcache_core.engine.chunks.entry import Carried
from lmcache_core.engine.frames.calls import BackendCalls
from lmcache_core.engine.frames.decoder import Arena, Decoder
from lmcache_core.engine.frames.encoder import encode_frame
from lmcache_core.engine.frames.frame import FrameSeal
from lmcache_core.engine.frames.header import FrameHeader
from lmcache_core.engine.frames.reading import Read
from lmcache_core.engine.frames.workers import Workers
from lmcache_core.engine.storage.frame_book import Facts
from lmcache_core.engine.storage.holdings import Holdings
from lmcache_core.engine.storage.recast import Outcome, Recast, Recoded
from lmcache_core.engine.storage.writer import TierWriter
from lmcache_core.errors import ConflictError, FrameError, LMCacheError, SerdeError
from lmcache_core.keys import Key
from lmcache_core.log import get_logger
from lmcache_core.memory import Slot

log = get_logger(__name__)

BURST_SECONDS = 0.05
"""How long writes and evictions wait for frames that are encoded anew, but for at least one.
As long as a burst took, the next one is put off."""


class TierRecoder:
    """Reads frames, encodes them in another way and puts them in their own place.

    It runs on the thread that changes the store, so that nothing is evicted
    or removed meanwhile. The new frame is decoded again before it replaces
    the old one, and replaces it whole; whatever fails leaves the old one.

    Args:
        holdings: The tier's state.
        calls: The store.
        decoder: Decodes frames, by the serdes it knows of.
        worker: The thread.
        writer: Makes room.
        seal: Knows the present namespace.
        replaces: Whether the store can put a frame in the place of another.
        shared: Whether others use the store, so that what is known of it is a hint.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        holdings: Holdings,
        calls: BackendCalls,
        decoder: Decoder,
        worker: Workers,
        writer: TierWriter,
        *,
        seal: FrameSeal,
        replaces: bool,
        shared: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._holdings = holdings
        self._calls = calls
        self._decoder = decoder
        self._worker = worker
        self._writer = writer
        self._seal = seal
        self._replaces = replaces
        self._shared = shared
        self._clock = clock
        self._busy = False
        self._due = 0.0

    def recast(self, serdes: Sequence[str], *, undo: bool) -> Recast:
        """What it takes to have frames encoded by some serdes, or to undo that.

        Raises:
            ConflictError: The store cannot replace frames, or this tier would
                not read them again.
            UnknownNameError: A serde is not installed.
            ConfigError: They make no chain, or one cannot be used here.
            PluginError: One is broken.
        """
        if not self._replaces:
            message = (
                f"{self._holdings.name} cannot put a frame in the place of another, so that "
                "nothing there can be encoded anew without the risk of losing it; use a backend "
                "that declares REPLACE (see lmcache plugins)"
            )
            raise ConflictError(message)
        shelf = self._decoder.shelf
        chain = shelf.writer(serdes)
        if undo:
            return Recast(shelf.writer(()), chain.names, shorter=False)
        return Recast(chain, None, shorter=True)

    def recode(
        self, keys: Sequence[Key], recast: Recast, done: Callable[[list[Recoded]], None]
    ) -> bool:
        """Queue some frames, at a bounded rate; the lock is held.

        Args:
            keys: Which, in order; those that are behind when the time of a
                burst is up are left out.
            recast: How.
            done: Called under the lock with what became of the first ones.

        Returns:
            False where nothing was queued, because others are under way or it
            is too soon, and ``done`` is never called.
        """
        if self._busy or self._clock() < self._due or not self._worker.running:
            return False
        if not self._holdings.breaker.allows():
            return False
        namespace = self._seal.namespace
        self._busy = self._worker.submit(lambda: self._run(keys, recast, namespace, done))
        return self._busy

    def _run(
        self,
        keys: Sequence[Key],
        recast: Recast,
        namespace: bytes,
        done: Callable[[list[Recoded]], None],
    ) -> None:
        holdings = self._holdings
        began = self._clock()
        recoded: list[Recoded] = []
        try:
            arena = Arena(3, 2, self._decoder.longest_bytes)
        except OSError as error:  # The machine has no memory for it.
            log.warning("tier.recode_failed", tier=holdings.name, error=str(error))
            recoded = [Recoded(key, Outcome.FAILED) for key in keys]
        else:
            for key in keys:
                recoded.append(self._recode_one(key, recast, namespace, arena))
                if self._clock() - began >= BURST_SECONDS:
                    break
        with holdings.lock:
            self._busy = False
            now = self._clock()
            self._due = now + (now - began)
            done(recoded)

    def _recode_one(self, key: Key, recast: Recast, namespace: bytes, arena: Arena) -> Recoded:
        holdings = self._holdings
        failure: LMCacheError | None = None
        try:
            result = self._recode(key, recast, namespace, arena)
            with holdings.lock:
                holdings.breaker.succeeded()
        except SerdeError as error:
            failure, result = error, Recoded(key, Outcome.REFUSED)
        except FrameError as error:
            failure, result = error, Recoded(key, Outcome.FAILED)
        except LMCacheError as error:
            failure, result = error, Recoded(key, Outcome.FAILED)
            with holdings.lock:
                holdings.breaker.failed()
        if failure is not None:
            log.warning("tier.recode_failed", tier=holdings.name, key=key.hex(), error=str(failure))
        with holdings.lock:
            if result.outcome is Outcome.RECODED:
                holdings.counters["recoded_frames"] += 1
            elif result.outcome is Outcome.FAILED:
                holdings.counters["recode_failures"] += 1
            elif result.outcome is not Outcome.MISSING:
                holdings.counters["recode_left_frames"] += 1
        return result

    def _recode(self, key: Key, recast: Recast, namespace: bytes, arena: Arena) -> Recoded:
        """Encode one frame anew.

        Raises:
            SerdeError: A serde cannot encode it, or decode it again.
            FrameError: It is damaged.
            LMCacheError: The store did not answer.
        """
        stored, raw, out = arena.cells
        with self._holdings.lock:
            if key not in self._holdings.residents and not self._shared:
                return Recoded(key, Outcome.MISSING)
        (length,) = self._calls.get([key], [stored])
        if length is None:
            return Recoded(key, Outcome.MISSING)
        header = FrameHeader.parse(stored[:length])
        if header.namespace != namespace:
            return Recoded(key, Outcome.FOREIGN)
        if header.serdes == recast.chain.names or recast.only not in (None, header.serdes):
            return Recoded(key, Outcome.UNCHANGED)
        if self._decoder.shelf.reader(header.serdes) is None:
            return Recoded(key, Outcome.FOREIGN)
        entry = self._decode(key, stored[:length], raw, namespace, arena)
        frame = encode_frame(recast.chain, raw[: HEADER_BYTES + header.raw_bytes], out)
        if recast.shorter and (len(frame) >= length or self._holdings.book.tells_raw(len(frame))):
            return Recoded(key, Outcome.NOT_SHORTER)
        self._prove(key, frame, stored, namespace, arena)
        facts = Facts(entry.tokens, entry.pages)
        outcome = self._replace(key, frame, len(frame) - length, facts)
        if outcome is not Outcome.RECODED:
            return Recoded(key, outcome)
        return Recoded(key, outcome, entry.tokens, length - len(frame))

    def _decode(
        self, key: Key, stored: memoryview, raw: memoryview, namespace: bytes, arena: Arena
    ) -> Carried:
        entry = Carried(key, Slot(0, 0), self._holdings.name)
        self._decoder.decode(Read(entry, raw), stored, arena.spare, namespace)
        return entry

    def _prove(
        self, key: Key, frame: memoryview, room: memoryview, namespace: bytes, arena: Arena
    ) -> None:
        """See that a frame can be read again before it takes the place of a good one.

        Raises:
            SerdeError: It cannot.
        """
        try:
            self._decode(key, frame, room, namespace, arena)
        except FrameError as error:
            raise SerdeError(f"what was encoded cannot be decoded: {error}") from error

    def _replace(self, key: Key, frame: memoryview, growth: int, facts: Facts) -> Outcome:
        if growth <= 0:
            return self._put(key, frame, facts)
        residents = self._holdings.residents
        with self._holdings.lock:
            if residents.marked(key) and not residents.may_pin(growth):
                return Outcome.FULL
            # No pin takes this room meanwhile, and what is to grow is not what makes room.
            residents.reserved_bytes += growth
            residents.hold(key)
        try:
            if not self._writer.make_room(growth):
                return Outcome.FULL
            return self._put(key, frame, facts)
        finally:
            with self._holdings.lock:
                residents.reserved_bytes -= growth
                residents.let_go(key)

    def _put(self, key: Key, frame: memoryview, facts: Facts) -> Outcome:
        """Put a frame in the place of the one that is there, and account for what is there then.

        Raises:
            LMCacheError: The store did not answer.
        """
        nbytes: int | None = len(frame)
        replaced = False
        try:
            replaced = self._calls.replace(key, frame)
        finally:
            if not replaced:
                (nbytes,) = self._calls.stat([key])
            with self._holdings.lock:
                self._account(key, nbytes, facts)
        return Outcome.RECODED if replaced else Outcome.FAILED

    def _account(self, key: Key, nbytes: int | None, facts: Facts) -> None:
        holdings = self._holdings
        if key not in holdings.residents:
            return  # It was dropped meanwhile, and is removed next.
        if nbytes is None:
            holdings.forget(key)
        else:
            holdings.residents.resize(key, nbytes)
            holdings.book.keep(key, facts)
