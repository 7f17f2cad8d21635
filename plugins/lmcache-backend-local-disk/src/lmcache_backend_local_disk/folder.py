"""The folder of one engine: locked, laid out, tidied, and known by its descriptor."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lmcache_backend_local_disk.calls import SystemCalls
from lmcache_backend_local_disk.frame_file import remove_if_there
from lmcache_backend_local_disk.identity import FORMAT, Identity
from lmcache_backend_local_disk.names import SHARDS
from lmcache_backend_local_disk.unsynced import Unsynced
from lmcache_core.errors import BackendError
from lmcache_core.log import get_logger

log = get_logger(__name__)

LOCK = "lock"
IDENTITY = "store"
ASIDE = "aside"
FRAMES = "frames"
QUARANTINE = "quarantine"
SNAPSHOT = "index"


class Folder:
    """A folder that belongs to this process as long as it is open.

    Files are reached from its descriptor, so that no other folder that comes
    to bear its name is ever written to. Its layout::

        lock          locked by the engine that owns the folder
        store         the folder's format and its lasting name
        index         what was in frames/ when it was written last; a hint
        aside/        files that are being written; emptied when it is opened
        frames/ab/    frames, by the first two digits of their keys
        quarantine/   damaged files, each with a text that says why

    Args:
        path: Where it is; made where it is not there.
        calls: The system's calls.
        durable: Whether what is made of it is to survive a loss of power.

    Attributes:
        unsynced: What would not survive a loss of power.
    """

    def __init__(self, path: Path, calls: SystemCalls, *, durable: bool = False) -> None:
        self.path = path
        self.calls = calls
        self.root = -1
        self.store_id = ""
        self.unfinished = 0
        self.unsynced = Unsynced()
        self._durable = durable
        self._lock = -1

    def open(self) -> None:
        """Own the folder, make what it lacks, and remove what was never finished.

        Raises:
            BackendError: It cannot be made or written, another engine owns
                it, or a later version wrote it.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileExistsError):
                self.calls.mkdir(self.path, 0o700)
            self.root = self.calls.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._take_lock()
            self.store_id = f"disk:{(self._read_identity() or self._write_identity()).name}"
            self.lay_out()
            self._collect()
        except OSError as error:
            self.close()
            raise BackendError(
                f"{self.path} cannot be used: {error.strerror}; give local_disk (or the backend's "
                "path) a folder on a local disk that this user may write"
            ) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another engine have it; idempotent."""
        held = [fd for fd in (self._lock, self.root) if fd >= 0]
        self._lock = self.root = -1
        for fd in held:
            with suppress(OSError):  # Linux has closed it when it says so.
                self.calls.close(fd)

    def lay_out(self) -> None:
        """Make the folders that are not there.

        Where files are to survive a loss of power, so are the folders they
        are in, and what a killed process has written and not synced.

        Raises:
            OSError: One cannot be made.
        """
        for name in (ASIDE, QUARANTINE, FRAMES, *(f"{FRAMES}/{shard}" for shard in SHARDS)):
            with suppress(FileExistsError):
                self.calls.mkdir(name, 0o700, dir_fd=self.root)
        if self._durable:
            self.calls.syncfs(self.root)
        else:
            self.unsynced.anything()

    @contextmanager
    def sub_folder(self, name: str) -> Iterator[int]:
        """Open a folder in it for a while.

        Raises:
            OSError: It is not there.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        fd = self.calls.open(name, flags, dir_fd=self.root)
        try:
            yield fd
        finally:
            self.calls.close(fd)

    def has(self, path: str) -> bool:
        """Whether there is anything of a name.

        Raises:
            OSError: It cannot be told.
        """
        try:
            self.calls.lstat(path, dir_fd=self.root)
        except FileNotFoundError:
            return False
        return True

    def free_bytes(self) -> int:
        """What this user may still write to the file system.

        Raises:
            OSError: It does not answer.
        """
        status = self.calls.fstatvfs(self.root)
        return status.f_bavail * status.f_frsize

    def lay_out_again(self) -> None:
        """Make folders again that somebody has removed.

        Only as long as the lock is ours: elsewhere we have no right to write.

        Raises:
            FileNotFoundError: The whole folder was removed or replaced.
            OSError: One cannot be made.
        """
        if not self.still_owned():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        self.lay_out()

    def still_owned(self) -> bool:
        """Whether the lock that is held is still the lock of the folder."""
        try:
            there = self.calls.lstat(LOCK, dir_fd=self.root)
            held = self.calls.fstat(self._lock)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)

    def _take_lock(self) -> None:
        calls = self.calls
        self._lock = calls.open(
            LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=self.root
        )
        try:
            calls.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            holder = os.pread(self._lock, 200, 0).decode(errors="replace").strip()
            raise BackendError(
                f"{self.path} belongs to another engine ({holder or 'one that is starting'}); "
                "give each engine its own lmcache_instance_id, or stop the other one"
            ) from error
        # Only told to people, and a full disk has no room for it.
        with suppress(OSError):
            calls.ftruncate(self._lock, 0)
            said = f"process {os.getpid()} on {socket.gethostname()}\n"
            calls.pwritev(self._lock, [said.encode()], 0)

    def _read_identity(self) -> Identity | None:
        try:
            fd = self.calls.open(IDENTITY, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.root)
        except FileNotFoundError:
            return None
        try:
            text = bytearray(200)
            identity = Identity.parse(bytes(text[: self.calls.preadv(fd, [text], 0)]))
        finally:
            self.calls.close(fd)
        if identity is None:
            log.warning("disk.identity_damaged", path=str(self.path))
        elif identity.format > FORMAT:
            raise BackendError(
                f"{self.path} has format {identity.format}, and this version knows up to "
                f"{FORMAT}; install the version that wrote it, or name another folder"
            )
        return identity

    def _write_identity(self) -> Identity:
        identity = Identity.new()
        self.write_file(IDENTITY, [identity.pack()])
        return identity

    def write_file(self, name: str, parts: list[bytes]) -> None:
        """Write a small file aside and give it its name.

        Raises:
            OSError: It cannot be written; what had its name is still there.
        """
        calls, new = self.calls, f"{name}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        fd = calls.open(new, flags, 0o600, dir_fd=self.root)
        try:
            at = 0
            for part in parts:
                view = memoryview(part)
                while view:
                    written = calls.pwritev(fd, [view], at)
                    if not written:
                        raise OSError(errno.EIO, f"{name} could not be written whole")
                    view, at = view[written:], at + written
        finally:
            calls.close(fd)
        calls.rename(new, name, src_dir_fd=self.root, dst_dir_fd=self.root)

    def _collect(self) -> None:
        with self.sub_folder(ASIDE) as aside:
            stale = [
                name
                for name in self.calls.listdir(aside)
                if remove_if_there(self.calls, aside, name)
            ]
        self.unfinished = len(stale)
        if stale:
            log.info("disk.unfinished_removed", path=str(self.path), files=len(stale))
