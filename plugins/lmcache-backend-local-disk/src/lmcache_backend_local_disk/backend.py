"""``LocalDiskBackend``: one file a frame, in a folder that one engine owns."""

from __future__ import annotations

import errno
import heapq
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from lmcache_backend_local_disk.config import LocalDiskConfig
from lmcache_backend_local_disk.folder import ASIDE, Folder, is_there
from lmcache_backend_local_disk.frame_file import FULL, FrameFiles, remove_if_there
from lmcache_backend_local_disk.names import SHARDS, instance_folder
from lmcache_backend_local_disk.quarantine import Quarantine
from lmcache_backend_local_disk.shard import Shard
from lmcache_core.api import (
    BackendContext,
    Deadline,
    PutStatus,
    StorageBackend,
    StoreUsage,
)
from lmcache_core.errors import BackendError
from lmcache_core.keys import Key
from lmcache_core.log import get_logger

log = get_logger(__name__)

GIB = 1 << 30

UNREADABLE = frozenset({errno.EIO, errno.ELOOP, errno.EISDIR, errno.EBADMSG, errno.EUCLEAN})
"""What one file's own damage looks like; anything else is the disk's or the process's."""


class LocalDiskBackend(StorageBackend):
    """Keeps each frame in a file of its own.

    A file is written aside and renamed, so that under its name there is a
    whole frame or nothing. What is there is known from the files alone: there
    is no index file that could be wrong.

    Args:
        config: Its section.
        context: Where it is used; the instance's id names the folder.
    """

    def __init__(self, config: LocalDiskConfig, context: BackendContext) -> None:
        path = Path(config.path).expanduser() / instance_folder(context.instance_id)
        self._folder = Folder(path.absolute())
        self._files = FrameFiles(direct=config.direct_io)
        self._quarantine = Quarantine(self._folder, int(config.quarantine_size * GIB))
        self._shards = [
            Shard(self._folder, number, self._quarantine) for number in range(len(SHARDS))
        ]
        self._serial = itertools.count()

    @property
    def store_id(self) -> str:
        """The name that the folder was given when it was made."""
        return self._folder.store_id

    def open(self) -> None:
        """Own the folder and see that it can be written.

        Raises:
            BackendError: It cannot be used; the message says what to do.
        """
        self._folder.open()
        try:
            works = self._folder.direct_io_works()
        except BackendError:
            self._folder.close()
            raise
        if self._files.direct and not works:
            self._files.direct = False
            log.warning("disk.direct_io_unavailable", path=str(self._folder.path))
        log.info("disk.opened", path=str(self._folder.path), direct_io=self._files.direct)

    def close(self) -> None:
        """Let another engine have the folder; idempotent."""
        self._folder.close()

    def stat(self, keys: Sequence[Key], deadline: Deadline) -> list[int | None]:
        """Tell the length of each file as it is now.

        Raises:
            BackendError: The folder does not answer.
        """
        return [self._stat(key, deadline) for key in keys]

    def put(
        self, keys: Sequence[Key], frames: Sequence[memoryview], deadline: Deadline
    ) -> list[PutStatus]:
        """Write each frame aside, then give it its name.

        Raises:
            BackendError: The disk does not take it, for another reason than
                that it is full.
        """
        return [self._put(key, frame, deadline) for key, frame in zip(keys, frames, strict=True)]

    def get(
        self, keys: Sequence[Key], buffers: Sequence[memoryview], deadline: Deadline
    ) -> list[int | None]:
        """Read each file; one that cannot be read is quarantined and is a miss.

        Raises:
            BackendError: The disk does not answer.
        """
        return [self._get(key, buffer, deadline) for key, buffer in zip(keys, buffers, strict=True)]

    def remove(self, keys: Sequence[Key], deadline: Deadline) -> list[bool]:
        """Remove each file.

        Raises:
            BackendError: The disk does not let us.
        """
        return [self._remove(key, deadline) for key in keys]

    def quarantine(
        self, keys: Sequence[Key], reasons: Sequence[str], deadline: Deadline
    ) -> list[bool]:
        """Move each file into the quarantine folder, with its reason.

        Raises:
            BackendError: The disk does not let us.
        """
        taken = []
        for key, reason in zip(keys, reasons, strict=True):
            deadline.check("quarantining a frame")
            try:
                taken.append(self._set_aside(key, reason))
            except OSError as error:
                raise self._failed("quarantining a frame", error) from error
        return taken

    def scan(self) -> Iterator[tuple[Key, int]]:
        """Yield every frame, those used longest ago first.

        Raises:
            BackendError: The folder cannot be listed.
        """
        try:
            found = [shard.found() for shard in self._shards]
        except OSError as error:
            raise self._failed("listing frames", error) from error
        for _, key, nbytes in heapq.merge(*found):
            yield key, nbytes

    def usage(self) -> StoreUsage:
        """Tell what the files take, byte by byte, file systems' rounding aside.

        Raises:
            BackendError: The folder cannot be listed.
        """
        used = frames = 0
        for shard in self._shards:
            try:
                with shard.lock:
                    lengths = shard.lengths()
                    used += sum(lengths.values())
                    frames += len(lengths)
            except OSError as error:
                raise self._failed("listing frames", error) from error
        return StoreUsage(used, frames)

    def _stat(self, key: Key, deadline: Deadline) -> int | None:
        deadline.check("looking for a frame")
        shard = self._shards[key[0]]
        try:
            with shard.lock:
                lengths = shard.lengths()
                if key not in lengths:
                    return None
                try:
                    status = os.stat(shard.path(key), dir_fd=self._folder.root)
                except FileNotFoundError:
                    del lengths[key]
                    return None
                lengths[key] = status.st_size
                return status.st_size
        except OSError as error:
            raise self._failed("looking for a frame", error) from error

    def _put(self, key: Key, frame: memoryview, deadline: Deadline) -> PutStatus:
        deadline.check("writing a frame")
        shard = self._shards[key[0]]
        try:
            with shard.lock:
                if key in shard.lengths():
                    return PutStatus.PRESENT
            try:
                return self._write(shard, key, frame)
            except FileNotFoundError:
                self._folder.lay_out_again()
                return self._write(shard, key, frame)
        except OSError as error:
            if error.errno in FULL:
                return PutStatus.FULL
            raise self._failed("writing a frame", error) from error

    def _write(self, shard: Shard, key: Key, frame: memoryview) -> PutStatus:
        root = self._folder.root
        aside = f"{ASIDE}/{next(self._serial)}"
        try:
            self._files.write(root, aside, frame)
            with shard.lock:
                lengths = shard.lengths()
                if key not in lengths:
                    os.rename(aside, shard.path(key), src_dir_fd=root, dst_dir_fd=root)
                    lengths[key] = frame.nbytes
                    return PutStatus.STORED
            remove_if_there(root, aside)
        except BaseException:
            with suppress(OSError):
                remove_if_there(root, aside)
            raise
        return PutStatus.PRESENT

    def _get(self, key: Key, buffer: memoryview, deadline: Deadline) -> int | None:
        deadline.check("reading a frame")
        shard = self._shards[key[0]]
        try:
            with shard.lock:
                if key not in shard.lengths():
                    return None
            try:
                return self._files.read(self._folder.root, shard.path(key), buffer)
            except FileNotFoundError:
                self._note_gone(shard, key)
                return None
            except OSError as error:
                if error.errno not in UNREADABLE:
                    raise
                self._set_aside(key, f"it cannot be read: {error.strerror}")
                return None
        except OSError as error:
            raise self._failed("reading a frame", error) from error

    def _remove(self, key: Key, deadline: Deadline) -> bool:
        deadline.check("removing a frame")
        shard = self._shards[key[0]]
        try:
            with shard.lock:
                lengths = shard.lengths()
                if key not in lengths:
                    return False
                removed = remove_if_there(self._folder.root, shard.path(key))
                del lengths[key]
                return removed
        except OSError as error:
            raise self._failed("removing a frame", error) from error

    def _set_aside(self, key: Key, reason: str) -> bool:
        shard = self._shards[key[0]]
        with shard.lock:
            lengths = shard.lengths()
            if key not in lengths:
                return False
            taken = self._quarantine.take(shard.path(key), reason)
            del lengths[key]
            return taken

    def _note_gone(self, shard: Shard, key: Key) -> None:
        """Forget a file that was not there, unless it has been written meanwhile."""
        with shard.lock:
            if not is_there(self._folder.root, shard.path(key)):
                shard.lengths().pop(key, None)

    def _failed(self, what: str, error: OSError) -> BackendError:
        if error.errno == errno.ENOENT and not self._folder.still_owned():
            advice = "the folder was removed or replaced; restart the engine to make it anew"
        elif error.errno == errno.EROFS:
            advice = "the file system has become read-only; see what the kernel says of the disk"
        elif error.errno == errno.EIO:
            advice = "the disk fails; see what the kernel says of it"
        else:
            advice = "see that the folder is there and that this user may write to it"
        return BackendError(f"{what} in {self._folder.path} failed: {error.strerror}; {advice}")
