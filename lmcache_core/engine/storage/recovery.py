"""Taking in what a store has kept without holding up whoever serves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from lmcache_core.api.frames import is_record
from lmcache_core.engine.storage.holdings import Holdings
from lmcache_core.engine.storage.pacing import paced
from lmcache_core.keys import Key
from lmcache_core.log import get_logger

log = get_logger(__name__)

BATCH_FRAMES = 256
"""Frames taken in under one hold of the engine's lock, some tenths of a millisecond."""


class Recovery:
    """Goes through a store once, when it is opened.

    Args:
        holdings: The tier's state.
        scan: Yields key and length of every frame.

    Attributes:
        over: Set when it has ended.
        stopping: Ends it early.
    """

    def __init__(self, holdings: Holdings, scan: Callable[[], Iterator[tuple[Key, int]]]) -> None:
        self._holdings = holdings
        self._scan = scan
        self.over = threading.Event()
        self.stopping = False

    def run(
        self,
        make_room: Callable[[int], object],
        find_records: Callable[[list[tuple[Key, int]]], object],
        take_records: Callable[[], object],
    ) -> None:
        """Take in what there is, in batches; on the thread that writes, before it does.

        Args:
            make_room: Evicts what is above the tier's bound.
            find_records: Notes keys and lengths of what is no chunk's, a
                batch at a time.
            take_records: Takes in what it says, once all chunks are known and
                before anything is evicted.
        """
        started = time.monotonic()
        holdings = self._holdings
        try:
            for batch in paced(self._scan(), BATCH_FRAMES):
                if self.stopping:
                    return
                chunks = [kept for kept in batch if not is_record(kept[0])]
                if len(chunks) < len(batch):
                    find_records([kept for kept in batch if is_record(kept[0])])
                with holdings.lock:
                    holdings.counters["recovered_frames"] += holdings.take_kept(chunks)
            take_records()
            make_room(0)
        except (Exception, SystemExit) as error:
            # What was found so far is served all the same.
            log.exception("tier.recovery_failed", tier=holdings.name, error=str(error))
            with holdings.lock:
                holdings.breaker.failed()
        finally:
            self.over.set()
        frames = holdings.counters["recovered_frames"]
        if frames:
            seconds = round(time.monotonic() - started, 3)
            log.info("tier.recovered", tier=holdings.name, frames=frames, seconds=seconds)
