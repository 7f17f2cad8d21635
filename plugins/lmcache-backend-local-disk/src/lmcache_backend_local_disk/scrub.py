"""Verifying files behind, at a bounded rate, so that damage is found before it is asked for."""

from __future__ import annotations

import random
from collections.abc import Iterator

from lmcache_backend_local_disk.calls import SystemCalls
from lmcache_backend_local_disk.disk import Disk
from lmcache_backend_local_disk.disks import Disks
from lmcache_backend_local_disk.faults import UNREADABLE
from lmcache_backend_local_disk.frame_check import FrameCheck
from lmcache_core.api.host import KeyEvents, MetricSink
from lmcache_core.keys import Key
from lmcache_core.log import get_logger

log = get_logger(__name__)

LEAST_SECONDS = 0.01
"""Between two steps, however little there was to do."""

AFTER_A_PASS_SECONDS = 60.0
AFTER_A_FAILURE_SECONDS = 30.0


class Scrub:
    """Goes through all files again and again, a little at each step.

    Args:
        disks: Whose, open.
        rate: Bytes per second.
        calls: The system's calls.
        metrics: Where what happens is counted.
        events: Takes what has come and gone.
    """

    def __init__(
        self, disks: Disks, rate: float, calls: SystemCalls, metrics: MetricSink, events: KeyEvents
    ) -> None:
        self._disks = disks
        self._rate = rate
        self._metrics = metrics
        self._events = events
        self._checks = {disk: FrameCheck(calls, direct=disk.direct) for disk in disks}
        self._frames = self._all_frames()

    def step(self) -> float:
        """Verify the next file.

        Returns:
            Seconds to wait before the next step.
        """
        try:
            found = next(self._frames, None)
            if found is None:
                self._frames = self._all_frames()
                return AFTER_A_PASS_SECONDS
            return max(self._verify(*found) / self._rate, LEAST_SECONDS)
        except OSError as error:
            # Whoever serves comes upon the same and says what is to be done.
            log.warning("disk.scrub_failed", error=error.strerror)
            self._metrics.count("scrub_failures")
            return AFTER_A_FAILURE_SECONDS

    def _verify(self, disk: Disk, key: Key) -> int:
        nbytes = disk.length(key)
        if nbytes is None:
            return 0
        path = disk.shards[key[0]].path(key)
        try:
            reason = self._checks[disk].reason(disk.folder.root, path, key)
        except FileNotFoundError:
            if disk.stat(key) is None:
                self._events.gone([key])
            return 0
        except OSError as error:
            if error.errno not in UNREADABLE:
                raise
            reason = f"it cannot be read: {error.strerror}"
        self._metrics.count("scrubbed_frames")
        if reason is not None:
            self._metrics.count("scrub_damaged", disk.quarantine(key, reason))
            self._events.gone([key])
        return nbytes

    def _all_frames(self) -> Iterator[tuple[Disk, Key]]:
        for disk in self._disks:
            # A process that never lives for a whole pass gets everywhere in time.
            first = random.randrange(len(disk.shards))  # noqa: S311 - no secret
            for shard in disk.shards[first:] + disk.shards[:first]:
                came, gone = shard.reconcile()
                self._metrics.count("reconciled_frames", len(came) + len(gone))
                if came:
                    self._events.came(came)
                if gone:
                    self._events.gone(gone)
                with shard.lock:
                    keys = shard.keys()
                yield from ((disk, key) for key in keys)
