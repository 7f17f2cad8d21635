"""What has happened, by name, counted from several threads."""

from __future__ import annotations

import threading

NAMES = (
    "syncs",
    "synced_frames",
    "full",
    "failures",
    "put_elsewhere",
    "given_up_frames",
    "unfinished_removed",
    "snapshot_failures",
    "scrubbed_frames",
    "scrub_damaged",
    "scrub_failures",
    "reconciled_frames",
)


class Counters:
    """Running totals.

    Attributes:
        totals: By name; read it as it is.
    """

    def __init__(self) -> None:
        self.totals = dict.fromkeys(NAMES, 0)
        self._lock = threading.Lock()

    def add(self, name: str, count: int = 1) -> None:
        """Count."""
        with self._lock:
            self.totals[name] += count
