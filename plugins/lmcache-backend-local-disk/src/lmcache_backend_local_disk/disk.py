"""One folder on one disk: frames in files, and what is known of them."""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from lmcache_backend_local_disk.calls import SystemCalls
from lmcache_backend_local_disk.config import LocalDiskConfig
from lmcache_backend_local_disk.folder import ASIDE, Folder
from lmcache_backend_local_disk.frame_file import FrameFiles, remove_if_there
from lmcache_backend_local_disk.group_commit import GroupCommit
from lmcache_backend_local_disk.health import Health
from lmcache_backend_local_disk.names import SHARDS
from lmcache_backend_local_disk.ordering import Found, in_order
from lmcache_backend_local_disk.quarantine import Quarantine
from lmcache_backend_local_disk.shard import PAUSE_SECONDS, Shard
from lmcache_backend_local_disk.snapshot_file import SnapshotFile
from lmcache_backend_local_disk.syncing import Syncing
from lmcache_backend_local_disk.writing import Writing
from lmcache_core.api import BackendContext, Deadline, PutStatus
from lmcache_core.errors import BackendError
from lmcache_core.keys import Key
from lmcache_core.log import get_logger

log = get_logger(__name__)

GIB = 1 << 30

FRAMES_AT_ONCE = 2048
"""Frames taken from a snapshot before a pause, about a millisecond."""


class Disk:
    """Keeps each frame in a file of its own.

    A file is written aside and renamed, so that under its name there is a
    whole frame or nothing. Where ``durability`` is ``always`` its content is
    synced before it is renamed and its folder after, and only then is it said
    to be stored.

    Every method raises ``OSError`` where the disk does not do what it is
    asked for.

    Args:
        path: The folder.
        config: The backend's section.
        calls: The system's calls.
        context: Where it is used.

    Attributes:
        folder: See above.
        health: Whether it works.
        shards: Its frames, by the first byte of the key.
        snapshot: What is written down of them for the next start.
        syncing: Syncs what was changed here.
    """

    def __init__(
        self, path: Path, config: LocalDiskConfig, calls: SystemCalls, context: BackendContext
    ) -> None:
        self.folder = Folder(path, calls, durable=config.durability != "none")
        self.health = Health(path, context.clock)
        self._calls = calls
        self._metrics = context.metrics
        self._events = context.events
        self.syncing = Syncing(self.folder, self._lose)
        self._files = FrameFiles(calls, direct=config.direct_io)
        self._floor = int(config.min_free_space * GIB)
        self._quarantine = Quarantine(self.folder, int(config.quarantine_size * GIB))
        self.shards = [
            Shard(self.folder, number, self._quarantine) for number in range(len(SHARDS))
        ]
        self.snapshot = SnapshotFile(self.folder, self.shards, context.metrics)
        self._serial = itertools.count()
        self._always = config.durability == "always"
        self._group = GroupCommit(self._commit)
        # Of the frames that have their name, and whose folder has yet to be synced.
        self._named: set[Key] = set()
        self._given_up: set[Key] = set()

    @property
    def direct(self) -> bool:
        """Whether files are read and written past the page cache."""
        return self._files.direct

    def open(self) -> None:
        """Own the folder and see that it can be written.

        Raises:
            BackendError: It cannot be used; the message says what to do.
        """
        self.folder.open()
        self._metrics.count("unfinished_removed", self.folder.unfinished)
        try:
            works = self._files.direct_io_works(self.folder.root, f"{ASIDE}/probe")
        except OSError as error:
            self.folder.close()
            raise BackendError(
                f"{self.folder.path} cannot be written: {error.strerror}; free some room, or name "
                "a folder on another disk"
            ) from error
        if self.direct and not works:
            self._files.direct = False
            log.warning("disk.direct_io_unavailable", path=str(self.folder.path))
        self.snapshot.read()

    def close(self) -> None:
        """Write down what is there and let another engine have the folder; idempotent."""
        if self.folder.root >= 0:
            self.snapshot.write()
        self.folder.close()

    def length(self, key: Key) -> int | None:
        """The length of a frame as it is known, without a look at its file."""
        shard = self.shards[key[0]]
        with shard.lock:
            return shard.length(key)

    def stat(self, key: Key) -> int | None:
        """The length of a frame's file as it is now."""
        shard = self.shards[key[0]]
        with shard.lock:
            if shard.length(key) is None:
                return None
            try:
                status = self._calls.lstat(shard.path(key), dir_fd=self.folder.root)
            except FileNotFoundError:
                shard.discard(key)
                return None
            shard.add(key, status.st_size)
            return status.st_size

    def put(
        self, keys: Sequence[Key], frames: Sequence[memoryview], deadline: Deadline
    ) -> list[PutStatus | OSError]:
        """Write frames; one that fails is its error and fails no other."""
        writings: list[Writing] = []
        try:
            for key, frame in zip(keys, frames, strict=True):
                deadline.check("writing a frame")
                writing = Writing(key, frame.nbytes)
                writings.append(writing)
                self._write(writing, frame)
                if not self._always:
                    self._name(writing)
                    if writing.outcome is PutStatus.STORED:
                        self.folder.unsynced.wrote(self.shards[key[0]].place, key)
            if self._always:
                # What is there may be another thread's, on its way to be durable.
                doubtful = [one for one in writings if one.key in self._named]
                written = [one for one in writings if one.open]
                if written or doubtful:
                    self._group.commit(written, deadline)
                for writing in doubtful:
                    if self.length(writing.key) is None:
                        writing.settle(OSError(errno.EIO, os.strerror(errno.EIO)))
        finally:
            for writing in writings:
                self._drop(writing)
        return [writing.outcome for writing in writings]

    def replace(self, key: Key, frame: memoryview, deadline: Deadline) -> PutStatus | OSError:
        """Write a frame in the place of one that is there; FAILED where there is none.

        It is synced before it is renamed, whatever ``durability`` is: what it
        takes the place of may be durable.
        """
        writing = Writing(key, frame.nbytes, replaces=True)
        try:
            self._write(writing, frame)
            if writing.open:
                self._group.commit([writing], deadline)
        finally:
            self._drop(writing)
        return writing.outcome

    def get(self, key: Key, buffer: memoryview) -> int | None:
        """Read a frame's file."""
        shard = self.shards[key[0]]
        with shard.lock:
            if shard.length(key) is None:
                return None
        try:
            nbytes = self._files.read(self.folder.root, shard.path(key), buffer)
        except FileNotFoundError:
            with shard.lock:  # It may have been written meanwhile.
                if not self.folder.has(shard.path(key)):
                    shard.discard(key)
            return None
        with shard.lock:
            shard.touch(key)
        return nbytes

    def remove(self, key: Key) -> bool:
        """Remove a frame's file; tell whether it was there."""
        shard = self.shards[key[0]]
        with shard.lock:
            if shard.length(key) is None:
                return False
            removed = self._unlink(shard, key)
            shard.discard(key)
            return removed

    def quarantine(self, key: Key, reason: str) -> bool:
        """Move a frame's file out of the way; tell whether it was there."""
        shard = self.shards[key[0]]
        with shard.lock:
            if shard.length(key) is None:
                return False
            taken = self._quarantine.take(shard.path(key), reason)
            shard.discard(key)
            self.folder.unsynced.removed(shard.place, key)
            return taken

    @property
    def synced(self) -> bool:
        """Whether a sync has nothing to do."""
        return self.folder.unsynced.nothing

    def sync(self, deadline: Deadline, *, behind: bool = False) -> None:
        """Return once all that was put and removed here survives a loss of power.

        Args:
            deadline: Until when.
            behind: Whether nobody waits for it; see ``Syncing.sync``.

        Raises:
            DeadlineExceededError: It takes longer.
        """
        self.syncing.sync(deadline, behind=behind)
        self._metrics.count("syncs")

    def found(self) -> Iterator[list[Found]]:
        """All frames, those used longest ago first, some at a time."""
        runs, unpaused = [], 0
        for shard in self.shards:
            run = shard.found()
            runs.append(run)
            unpaused += len(run.keys)
            if unpaused >= FRAMES_AT_ONCE:
                time.sleep(PAUSE_SECONDS)
                unpaused = 0
        return in_order(runs)

    def usage(self) -> tuple[int, int]:
        """Bytes and number of the frames."""
        used = frames = 0
        for shard in self.shards:
            with shard.lock:
                nbytes, count = shard.usage()
            used, frames = used + nbytes, frames + count
        return used, frames

    def give_up(self, key: Key) -> bool:
        """Forget a frame of a disk that does not answer; its file goes when it does.

        Returns:
            Whether it was known.
        """
        shard = self.shards[key[0]]
        with shard.lock:
            if shard.length(key) is None:
                return False
            shard.discard(key)
            self._given_up.add(key)
        self._metrics.count("given_up_frames")
        return True

    def clear_given_up(self) -> None:
        """Remove the files of what was given up, now that the disk answers."""
        while self._given_up:
            key = self._given_up.pop()
            shard = self.shards[key[0]]
            with shard.lock, suppress(OSError):  # Found again by the next scrub.
                if shard.length(key) is None:
                    self._unlink(shard, key)

    def _write(self, writing: Writing, frame: memoryview) -> None:
        """Write a frame aside, unless it is there."""
        shard = self.shards[writing.key[0]]
        try:
            with shard.lock:
                if not writing.fits(shard.length(writing.key)):
                    return
            if self._floor and self.folder.free_bytes() - frame.nbytes < self._floor:
                writing.settle(PutStatus.FULL)
                return
            for again in (False, True):
                aside = f"{ASIDE}/{next(self._serial)}"
                try:
                    writing.aside = aside
                    writing.fd = self._files.write(self.folder.root, aside, frame)
                    break
                except FileNotFoundError:
                    if again:
                        raise
                    self.folder.lay_out_again()
        except OSError as error:
            writing.settle(error)

    def _commit(self, group: list[Writing]) -> None:
        """Sync what is in files, name them, sync their folders."""
        for writing in group:
            assert writing.fd is not None  # noqa: S101 - for the type checker
            try:
                self._calls.fsync(writing.fd)
            except OSError as error:
                # It is not known what of it is on the disk, and asking again would not tell.
                writing.settle(error)
        for writing in group:
            if writing.open:
                self._name(writing)
        places: dict[str, list[Writing]] = {}
        for writing in group:
            if writing.outcome is PutStatus.STORED:
                places.setdefault(self.shards[writing.key[0]].place, []).append(writing)
        for place, named in places.items():
            try:
                with self.folder.sub_folder(place) as fd:
                    self._calls.fsync(fd)
            except OSError as error:
                for writing in named:
                    self._take_back(writing, error)
        self._named.difference_update(writing.key for writing in group)
        self._metrics.count("syncs", bool(group))
        self._metrics.count("synced_frames", sum(map(len, places.values())))

    def _name(self, writing: Writing) -> None:
        """Give a file its name, unless another has it."""
        if writing.fd is None:
            return
        shard, root = self.shards[writing.key[0]], self.folder.root
        fd, writing.fd = writing.fd, None
        try:
            self._calls.close(fd)
            with shard.lock:
                if not writing.fits(shard.length(writing.key)):
                    return
                if self._always:
                    self._named.add(writing.key)
                path = shard.path(writing.key)
                try:
                    self._calls.rename(writing.aside, path, src_dir_fd=root, dst_dir_fd=root)
                except FileNotFoundError:
                    self.folder.lay_out_again()
                    self._calls.rename(writing.aside, path, src_dir_fd=root, dst_dir_fd=root)
                shard.add(writing.key, writing.nbytes)
            writing.settle(PutStatus.STORED)
        except OSError as error:
            writing.settle(error)

    def _take_back(self, writing: Writing, error: OSError) -> None:
        """Remove a file whose name may not survive, so that it is not said to be there.

        What has replaced another stays: whichever of the two survives is whole.
        """
        writing.settle(error)
        if writing.replaces:
            return
        with suppress(OSError):
            self.remove(writing.key)

    def _unlink(self, shard: Shard, key: Key) -> bool:
        """Remove a frame's file; the shard's lock is held."""
        removed = remove_if_there(self._calls, self.folder.root, shard.path(key))
        self.folder.unsynced.removed(shard.place, key)
        return removed

    def _lose(self, key: Key) -> None:
        """Remove a file of which it is not known whether it is on the disk."""
        log.warning("disk.frame_lost", path=str(self.folder.path), key=key.hex())
        try:
            self.remove(key)
        except OSError:
            self.give_up(key)
        self._events.gone([key])

    def _drop(self, writing: Writing) -> None:
        """Let go of what a writing still has."""
        with suppress(OSError):
            if writing.fd is not None:
                fd, writing.fd = writing.fd, None
                self._calls.close(fd)
        if writing.aside and writing.outcome is not PutStatus.STORED:
            with suppress(OSError):  # Removed at the next start.
                remove_if_there(self._calls, self.folder.root, writing.aside)
