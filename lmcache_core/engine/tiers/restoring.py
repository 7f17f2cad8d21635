"""Pins that durable tiers have kept, marked before anything is written or evicted there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

from lmcache_core.config import ANYWHERE
from lmcache_core.engine.frames.record import Record
from lmcache_core.engine.pins.keeping import LEDGER, PinKeeping
from lmcache_core.engine.pins.record import PinRecord
from lmcache_core.engine.pins.table import PINS_AT_ONCE, PinTable
from lmcache_core.engine.storage.pacing import paced
from lmcache_core.engine.storage.record_shelf import Taken
from lmcache_core.errors import LMCacheError
from lmcache_core.log import get_logger

log = get_logger(__name__)


class PinRestoring:
    """Makes pins from their records, on the threads that go through the stores.

    Args:
        pins: The engine's pins.
        keeping: Which tier keeps which.
        identity: The identity of the engine's namespace.
        lock: The engine's lock.
        wall: Unix time.
    """

    def __init__(
        self,
        pins: PinTable,
        keeping: PinKeeping,
        *,
        identity: bytes,
        lock: AbstractContextManager[object],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._pins = pins
        self._keeping = keeping
        self._identity = identity
        self._lock = lock
        self._wall = wall

    def take(self, tier: str, records: Iterable[Record], latest: float, last: bool) -> Taken:
        """Restore pins.

        Args:
            tier: The tier that has kept them.
            records: Some of what it has kept.
            latest: Unix time of the latest of all: it is later now, whatever
                the clock says.
            last: Whether all others were handed over.

        Returns:
            Those that are of no use any more, and pins of any tier, which are
            put off: pins of one tier had their room there, those of any take
            what is left.
        """
        now = max(self._wall(), latest)
        stale: list[str] = []
        put_off: list[str] = []
        for record in records:
            if record.name == LEDGER:
                with self._lock:
                    self._keeping.ledger_id = record.body.decode(errors="replace")
                continue
            try:
                kept = PinRecord.parse(record.body)
                if kept.request.location == ANYWHERE and not last:
                    put_off.append(record.name)
                elif not self._restore(tier, kept, now):
                    stale.append(record.name)
            except LMCacheError as error:
                log.warning("pin.not_restored", tier=tier, pin_id=record.name, reason=str(error))
                stale.append(record.name)
        return Taken(stale, put_off)

    def keep_again(self, names: Sequence[str]) -> None:
        """Have records written anew that a store has lost; without the lock.

        Args:
            names: Of the records; a pin that has ended since needs none.
        """
        for part in paced(names, PINS_AT_ONCE):
            with self._lock:
                for name in part:
                    if name == LEDGER:
                        self._keeping.keep_ledger()
                    else:
                        self._pins.keep_again(name)

    def _restore(self, tier: str, kept: PinRecord, now: float) -> bool:
        request = kept.request
        left = None if kept.ends_at is None else kept.ends_at - now
        if left is not None and left <= 0:
            log.info("pin.expired", pin_id=request.pin_id)
            return False
        if kept.namespace != self._identity:
            log.warning(
                "pin.not_restored",
                tier=tier,
                pin_id=request.pin_id,
                reason="the engine serves another namespace now",
            )
            return False
        with self._lock:
            overtaken = self._keeping.receipt(request.pin_id) is not None
            pin = self._pins.restore(request, left_seconds=left, wanted_tokens=kept.wanted_tokens)
            if pin is None:
                # What is queued takes the place of the record, or removes it.
                return overtaken
            if overtaken:
                self._keeping.made(pin, left)
            else:
                self._keeping.restored(pin, tier, kept.ends_at)
        log.info("pin.restored", tier=tier, pin_id=request.pin_id, version=request.version)
        return True
