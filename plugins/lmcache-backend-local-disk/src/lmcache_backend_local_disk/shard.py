"""Which frames lie in one sub-folder, and how long each is."""

from __future__ import annotations

import os
import stat
import threading
import time
from contextlib import suppress

from lmcache_backend_local_disk.folder import FRAMES, Folder, names_in
from lmcache_backend_local_disk.names import SHARDS, frame_name, key_of
from lmcache_backend_local_disk.quarantine import Quarantine
from lmcache_core.keys import Key

FILES_AT_ONCE = 128
"""Files looked at before a pause, some tenths of a millisecond."""

PAUSE_SECONDS = 1e-4
"""Long enough for a thread that waits for the interpreter's lock to wake up and take it."""


Found = tuple[int, Key, int]
"""When a file was read or written last, as far as the file system keeps that, in nanoseconds;
its key; its length. A plain tuple, which the garbage collector does not go through again and
again while there are hundreds of thousands."""


class Shard:
    """The frames whose keys begin with one byte.

    What lies there is listed once, when it is first asked for; from then on
    the engine that owns the folder knows of every change.

    Args:
        folder: The folder, open.
        number: The byte.
        quarantine: Where files go that are no frames.

    Attributes:
        lock: Held while ``lengths`` or the names in the folder change.
    """

    def __init__(self, folder: Folder, number: int, quarantine: Quarantine) -> None:
        self.lock = threading.RLock()
        self._folder = folder
        self._number = number
        self._quarantine = quarantine
        self._lengths: dict[Key, int] | None = None

    def path(self, key: Key) -> str:
        """The file of a frame, from the folder's root."""
        return f"{FRAMES}/{SHARDS[self._number]}/{frame_name(key)}"

    def lengths(self) -> dict[Key, int]:
        """Lengths by key; ``lock`` is held by who calls and as long as they are used.

        Raises:
            OSError: The folder cannot be listed.
        """
        if self._lengths is None:
            self._lengths = {key: nbytes for _, key, nbytes in self._list()}
        return self._lengths

    def found(self) -> list[Found]:
        """All frames, those used longest ago first.

        Raises:
            OSError: The folder cannot be listed.
        """
        with self.lock:
            found = self._list()
            if self._lengths is None:
                self._lengths = {key: nbytes for _, key, nbytes in found}
            known = self._lengths
            return sorted(one for one in found if one[1] in known)

    def _list(self) -> list[Found]:
        place = f"{FRAMES}/{SHARDS[self._number]}"
        found: list[Found] = []
        # A folder or a file that somebody else removes meanwhile is not there.
        with suppress(FileNotFoundError), self._folder.sub_folder(place) as fd:
            for number, name in enumerate(names_in(fd), start=1):
                if number % FILES_AT_ONCE == 0:
                    time.sleep(PAUSE_SECONDS)
                with suppress(FileNotFoundError):
                    # Unlike an entry's own stat, this one lets go of the interpreter's lock.
                    status = os.lstat(name, dir_fd=fd)
                    key = key_of(name, self._number)
                    if key is None or not stat.S_ISREG(status.st_mode):
                        self._quarantine.take(f"{place}/{name}", "it is not a frame's file")
                    else:
                        used_at = max(status.st_atime_ns, status.st_mtime_ns)
                        found.append((used_at, key, status.st_size))
        return found
