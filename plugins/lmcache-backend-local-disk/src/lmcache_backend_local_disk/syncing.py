"""Syncing what was changed in a folder, and nothing that others write to the same disk."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from lmcache_backend_local_disk.faults import OUR_OWN
from lmcache_backend_local_disk.folder import Folder
from lmcache_backend_local_disk.names import frame_name
from lmcache_backend_local_disk.together import together
from lmcache_backend_local_disk.unsynced import Changes
from lmcache_core.api import Deadline
from lmcache_core.errors import DeadlineExceededError
from lmcache_core.keys import Key

WHAT = "syncing frames"

AT_ONCE = 4
"""Threads that sync together, where there are more sub-folders than that.

While others keep the device busy a flush of its cache takes milliseconds, and those
asked for at the same time share one: 16 files and their folders took 109 ms one
after the other, 5 to 9 ms so, and 3 ms with a sync of the whole file system.
"""


class Syncing:
    """Syncs the files that were written and the sub-folders whose names have changed.

    So it takes as long as these need, whatever else waits to be written to
    the file system. Only where that is more than is noted of (see
    ``Unsynced``), or after folders were made, the whole file system is synced.

    A file that cannot be synced is lost: the kernel tells once that its pages
    were, and takes them for written the next time. So are the files of a
    sub-folder that cannot be synced. When the whole file system cannot be
    synced it is not told which files were, and it is tried again; what was lost is
    found when it is read.

    Args:
        folder: The folder, open.
        lose: Called with the key of each frame that is lost, before that is raised.

    Attributes:
        at_once: See ``AT_ONCE``.
    """

    def __init__(self, folder: Folder, lose: Callable[[Key], None]) -> None:
        self._folder = folder
        self._calls = folder.calls
        self._unsynced = folder.unsynced
        self._lose = lose
        self.at_once = AT_ONCE
        self._lock = threading.Lock()
        self._noting = threading.Lock()
        self._failures = 0
        self._told = 0
        self._failure = OSError()

    def sync(self, deadline: Deadline, *, behind: bool = False) -> None:
        """Return once all that was done before survives a loss of power.

        Args:
            deadline: Until when.
            behind: Whether nobody waits for it. What fails then is raised
                here and once more to who waits next.

        Raises:
            OSError: Not all of it does.
            DeadlineExceededError: It takes longer; what is left is synced
                with the next.
        """
        # One that fails while this one waits may have been about the same files.
        seen = self._told
        if not self._lock.acquire(timeout=deadline.remaining_seconds):
            raise DeadlineExceededError(WHAT, deadline.seconds)
        try:
            seen = self._failures if behind else seen
            try:
                self._sync(deadline)
            except OSError as error:
                self._note(error)
            if self._failures > seen:
                self._told = self._told if behind else self._failures
                raise OSError(self._failure.errno, self._failure.strerror) from self._failure
        finally:
            self._lock.release()

    def _sync(self, deadline: Deadline) -> None:
        changes = self._unsynced.take()
        try:
            if changes is None:
                self._calls.syncfs(self._folder.root)
                changes = {}
            else:
                self._sync_places(changes, deadline)
        finally:
            self._unsynced.put_back(changes)

    def _sync_places(self, changes: Changes, deadline: Deadline) -> None:
        places = list(changes)
        shares = self.at_once if len(places) > self.at_once else 1

        def sync_share(number: int) -> None:
            for place in places[number::shares]:
                self._sync_place(place, changes, deadline)

        tasks = [partial(sync_share, number) for number in range(shares)]
        for raised in together("sync", tasks, deadline):
            if raised is not None:
                raise raised

    def _sync_place(self, place: str, changes: Changes, deadline: Deadline) -> None:
        """Sync a sub-folder and what was written there; what is done is a change no longer."""
        keys = changes[place]
        for key in list(keys):
            try:
                with self._opened(f"{place}/{frame_name(key)}", deadline) as fd:
                    self._calls.fsync(fd)
            except FileNotFoundError:  # It was removed meanwhile.
                continue
            except OSError as error:
                self._lost(key, keys, error)
        try:
            with suppress(FileNotFoundError), self._opened(place, deadline) as fd:
                self._calls.fsync(fd)
            del changes[place]
        except OSError as error:
            for key in list(keys):
                self._lost(key, keys, error)
            self._note(error)  # There may have been none, and names that have gone.

    def _lost(self, key: Key, keys: set[Key], error: OSError) -> None:
        if error.errno in OUR_OWN:
            raise error
        keys.discard(key)
        self._note(error)
        self._lose(key)

    def _note(self, error: OSError) -> None:
        with self._noting:
            self._failures += 1
            self._failure = error

    @contextmanager
    def _opened(self, path: str, deadline: Deadline) -> Iterator[int]:
        deadline.check(WHAT)
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = self._calls.open(path, flags, dir_fd=self._folder.root)
        try:
            yield fd
        finally:
            with suppress(OSError):  # Linux has closed it when it says so.
                self._calls.close(fd)
