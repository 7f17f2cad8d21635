"""Which frames lie in one sub-folder, how long each is, and when it was used."""

from __future__ import annotations

import stat
import threading
import time
from array import array
from contextlib import suppress

from lmcache_backend_local_disk.folder import FRAMES, Folder
from lmcache_backend_local_disk.names import SHARDS, frame_name, key_of
from lmcache_backend_local_disk.ordering import Found, Run
from lmcache_backend_local_disk.quarantine import Quarantine
from lmcache_backend_local_disk.snapshot import ShardSnapshot
from lmcache_core.keys import Key

FILES_AT_ONCE = 256
"""Files looked at before a pause, some tenths of a millisecond."""

PAUSE_SECONDS = 1e-4
"""Long enough for a thread that waits for the interpreter's lock to wake up and take it."""

LENGTH_BITS = 36
LONGEST = (1 << LENGTH_BITS) - 1
"""Bytes of the longest frame, 64 GiB."""

SETTLED_NANOSECONDS = 100_000_000
"""A folder that has changed less long ago may change again within one tick of its clock."""


def pack(used_us: int, nbytes: int) -> int:
    """When a frame was used and how long it is, as one number that sorts by use.

    Two numbers, or a tuple of them, would take twice the memory for each of
    a million frames.
    """
    return used_us << LENGTH_BITS | min(nbytes, LONGEST)


def length_of(use: int) -> int:
    """The length that was packed."""
    return use & LONGEST


def used_at(use: int) -> int:
    """When it was used, in microseconds since the epoch."""
    return use >> LENGTH_BITS


class Shard:
    """The frames whose keys begin with one byte.

    What lies there is learnt once, when it is first asked for: from the
    snapshot where nothing has changed since, or else from the files. From
    then on the engine that owns the folder knows of every change.

    Args:
        folder: The folder, open.
        number: The byte.
        quarantine: Where files go that are no frames.

    Attributes:
        lock: Held while the names in the folder change, and around every
            call but ``found``.
        place: The sub-folder, from the folder's root.
        hint: What a snapshot says, until it is used.
    """

    def __init__(self, folder: Folder, number: int, quarantine: Quarantine) -> None:
        self.lock = threading.RLock()
        self.place = f"{FRAMES}/{SHARDS[number]}"
        self.hint: ShardSnapshot | None = None
        self._folder = folder
        self._number = number
        self._quarantine = quarantine
        self._uses: dict[Key, int] | None = None
        self._nbytes = 0

    def path(self, key: Key) -> str:
        """The file of a frame, from the folder's root."""
        return f"{self.place}/{frame_name(key)}"

    def length(self, key: Key) -> int | None:
        """The length of a frame, None where it is not there.

        Raises:
            OSError: The folder cannot be listed.
        """
        use = self._known().get(key)
        return None if use is None else length_of(use)

    def add(self, key: Key, nbytes: int) -> None:
        """Note a frame that is there now, and used."""
        uses = self._known()
        # It comes to the end: those used longest ago are first.
        self._nbytes += nbytes - length_of(uses.pop(key, 0))
        uses[key] = pack(time.time_ns() // 1000, nbytes)

    def discard(self, key: Key) -> None:
        """Forget a frame."""
        self._nbytes -= length_of(self._known().pop(key, 0))

    def touch(self, key: Key) -> None:
        """Note that a frame was used."""
        nbytes = self.length(key)
        if nbytes is not None:
            self.add(key, nbytes)

    def usage(self) -> tuple[int, int]:
        """Bytes and number of the frames.

        Raises:
            OSError: The folder cannot be listed.
        """
        uses = self._known()
        return self._nbytes, len(uses)

    def keys(self) -> list[Key]:
        """The keys of all frames."""
        return list(self._known())

    def found(self) -> Run:
        """All frames, those used longest ago first.

        Raises:
            OSError: The folder cannot be listed.
        """
        with self.lock:
            return Run.of(self._known())

    def snapshot(self) -> ShardSnapshot | None:
        """What is there, and by what it is seen later whether that still holds.

        Returns:
            None where the folder has changed just now, or was never listed.

        Raises:
            OSError: The folder does not answer.
        """
        with self.lock:
            if self._uses is None:
                return self.hint
            status = self._folder.calls.lstat(self.place, dir_fd=self._folder.root)
            if time.time_ns() - status.st_mtime_ns < SETTLED_NANOSECONDS:
                return None
            uses = list(self._uses.values())
            return ShardSnapshot(
                number=self._number,
                inode=status.st_ino,
                changed_ns=status.st_mtime_ns,
                keys=b"".join(self._uses),
                lengths=array("Q", map(length_of, uses)),
                used_us=array("Q", map(used_at, uses)),
            )

    def reconcile(self) -> tuple[list[tuple[Key, int]], list[Key]]:
        """Note frames that somebody else has put there, with their lengths, or taken away.

        Raises:
            OSError: The folder cannot be listed.
        """
        with self.lock:
            known = self._known()
            listed = {key: use for use, key in self._list({})}
            came = [(key, length_of(use)) for key, use in listed.items() if key not in known]
            gone = [key for key in known if key not in listed]
            for key, nbytes in came:
                self.add(key, nbytes)
            for key in gone:
                self.discard(key)
            return came, gone

    def _known(self) -> dict[Key, int]:
        if self._uses is None:
            hint, self.hint = self.hint, None
            if hint is None:
                self._take(self._list({}))
            elif self._unchanged_since(hint):
                self._uses = dict(zip(hint.each_key(), hint.uses(LENGTH_BITS), strict=True))
                self._nbytes = sum(hint.lengths)
            else:
                # How long files are, they say; when they were read, the snapshot may know better.
                self._take(self._list(dict(zip(hint.each_key(), hint.used_us, strict=True))))
        assert self._uses is not None  # noqa: S101 - for the type checker
        return self._uses

    def _take(self, found: list[Found]) -> None:
        self._uses = {key: use for use, key in sorted(found)}
        self._nbytes = sum(map(length_of, self._uses.values()))

    def _unchanged_since(self, hint: ShardSnapshot) -> bool:
        try:
            status = self._folder.calls.lstat(self.place, dir_fd=self._folder.root)
        except FileNotFoundError:
            return False
        return (status.st_ino, status.st_mtime_ns) == (hint.inode, hint.changed_ns)

    def _list(self, used_before: dict[Key, int]) -> list[Found]:
        calls = self._folder.calls
        found: list[Found] = []
        # A folder or a file that somebody else removes meanwhile is not there.
        with suppress(FileNotFoundError), self._folder.sub_folder(self.place) as fd:
            for number, name in enumerate(calls.listdir(fd), start=1):
                if number % FILES_AT_ONCE == 0:
                    time.sleep(PAUSE_SECONDS)
                try:
                    # Unlike an entry's own stat, this one lets go of the interpreter's lock.
                    status = calls.lstat(name, dir_fd=fd)
                except FileNotFoundError:
                    continue
                key = key_of(name, self._number)
                if key is None or not stat.S_ISREG(status.st_mode):
                    self._quarantine.take(f"{self.place}/{name}", "it is not a frame's file")
                    continue
                used_us = max(status.st_atime_ns, status.st_mtime_ns) // 1000
                if used_before:
                    used_us = max(used_us, used_before.get(key, 0))
                found.append((pack(used_us, status.st_size), key))
        return found
