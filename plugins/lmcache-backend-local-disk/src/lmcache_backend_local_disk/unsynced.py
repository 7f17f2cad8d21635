"""What was changed in a folder since it was synced, within a bound."""

from __future__ import annotations

import threading

from lmcache_core.keys import Key

MOST_FILES = 256
"""Files that are synced one by one at most.

Each takes about as long as the device needs to flush its cache, 0.05 to 0.1 ms
where this was measured (ext4, with and without direct I/O; ``fdatasync`` was no
faster), and milliseconds while others flush, too; and so does each sub-folder. A
sync of the whole file system took 0.2 ms for 16 files and 2 ms for 256 where nobody
else writes there, and 230 ms behind 512 MiB that another program had just
written, against 1.2 and 23 ms one by one. Beyond this many there is no
knowing which of the two is longer.
"""

Changes = dict[str, set[Key]]
"""By sub-folder, the frames written there; none where names have only gone."""


class Unsynced:
    """Notes what would not survive a loss of power. Thread-safe.

    Whoever changes something notes it afterwards, before it says so to
    anybody: what is noted can be synced.

    Args:
        most_files: Frames that are known one by one; with more, the whole
            file system is to be synced.

    Attributes:
        most_files: See above.
    """

    def __init__(self, most_files: int = MOST_FILES) -> None:
        self.most_files = most_files
        self._lock = threading.Lock()
        self._changes: Changes | None = {}
        self._files = 0

    @property
    def nothing(self) -> bool:
        """Whether all of it has been synced."""
        with self._lock:
            return self._changes == {}

    def wrote(self, place: str, key: Key) -> None:
        """A frame has its name in a sub-folder."""
        with self._lock:
            if self._changes is None:
                return
            keys = self._changes.setdefault(place, set())
            self._files += key not in keys
            keys.add(key)
            if self._files > self.most_files:
                self._changes = None

    def removed(self, place: str, key: Key) -> None:
        """A frame's name has gone from a sub-folder."""
        with self._lock:
            if self._changes is None:
                return
            keys = self._changes.setdefault(place, set())
            self._files -= key in keys
            keys.discard(key)

    def anything(self) -> None:
        """There is more than is known here, sub-folders for one."""
        with self._lock:
            self._changes = None

    def take(self) -> Changes | None:
        """What is to be synced now, and noted no longer; None for all there is."""
        with self._lock:
            changes, self._changes, self._files = self._changes, {}, 0
            return changes

    def put_back(self, changes: Changes | None) -> None:
        """Note again what was taken and not synced."""
        if changes is None:
            self.anything()
            return
        # Copies: who was not waited for any longer may still be at it.
        for place, keys in list(changes.items()):
            with self._lock:
                if self._changes is not None:
                    self._changes.setdefault(place, set())
            for key in list(keys):
                self.wrote(place, key)
