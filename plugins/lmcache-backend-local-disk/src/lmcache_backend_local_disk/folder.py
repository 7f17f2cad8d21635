"""The folder of one engine: locked, laid out, tidied, and known by its descriptor."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lmcache_backend_local_disk.frame_file import direct_io_works, remove_if_there
from lmcache_backend_local_disk.names import SHARDS
from lmcache_core.errors import BackendError
from lmcache_core.log import get_logger

log = get_logger(__name__)

LOCK = "lock"
IDENTITY = "store"
ASIDE = "aside"
FRAMES = "frames"
QUARANTINE = "quarantine"

FORMAT = 1
"""Layout of the folder; one of a higher number is not touched."""


class Folder:
    """A folder that belongs to this process as long as it is open.

    Files are reached from its descriptor, so that no other folder that comes
    to bear its name is ever written to. Its layout::

        lock          locked by the engine that owns the folder
        store         the folder's format and its lasting name
        aside/        files that are being written; emptied when it is opened
        frames/ab/    frames, by the first two digits of their keys
        quarantine/   damaged files, each with a text that says why

    Args:
        path: Where it is; made where it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = -1
        self.store_id = ""
        self._lock = -1

    def open(self) -> None:
        """Own the folder, make what it lacks, and remove what was never finished.

        Raises:
            BackendError: It cannot be made or written, another engine owns
                it, or a later version wrote it.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.root = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._take_lock()
            self.store_id = self._read_identity() or self._write_identity()
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
        for fd in (self._lock, self.root):
            if fd >= 0:
                os.close(fd)
        self._lock = self.root = -1

    def lay_out(self) -> None:
        """Make the folders that are not there.

        Raises:
            OSError: One cannot be made.
        """
        for name in (ASIDE, QUARANTINE, FRAMES, *(f"{FRAMES}/{shard}" for shard in SHARDS)):
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=self.root)

    @contextmanager
    def sub_folder(self, name: str) -> Iterator[int]:
        """Open a folder in it for a while.

        Raises:
            OSError: It is not there.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=self.root)
        try:
            yield fd
        finally:
            os.close(fd)

    def direct_io_works(self) -> bool:
        """Whether files here can be read and written past the page cache.

        Raises:
            BackendError: Nothing can be written here.
        """
        try:
            return direct_io_works(self.root, f"{ASIDE}/probe")
        except OSError as error:
            raise BackendError(
                f"{self.path} cannot be written: {error.strerror}; free some room, or name a "
                "folder on another disk"
            ) from error

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
            there = os.stat(LOCK, dir_fd=self.root)
        except OSError:
            return False
        held = os.fstat(self._lock)
        return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)

    def _take_lock(self) -> None:
        self._lock = os.open(
            LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=self.root
        )
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def _read_identity(self) -> str | None:
        try:
            fd = os.open(IDENTITY, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.root)
        except FileNotFoundError:
            return None
        try:
            words = os.read(fd, 200).decode(errors="replace").split()
        finally:
            os.close(fd)
        if len(words) != 3 or words[0] != "lmcache-disk" or not words[1].isdigit():
            log.warning("disk.identity_damaged", path=str(self.path))
            return None
        if int(words[1]) > FORMAT:
            raise BackendError(
                f"{self.path} has format {words[1]}, and this version knows up to {FORMAT}; "
                "install the version that wrote it, or name another folder"
            )
        return f"disk:{words[2]}"

    def _write_identity(self) -> str:
        name = str(uuid.uuid4())
        new = f"{IDENTITY}.new"
        fd = os.open(
            new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=self.root
        )
        try:
            os.write(fd, f"lmcache-disk {FORMAT} {name}\n".encode())
        finally:
            os.close(fd)
        os.rename(new, IDENTITY, src_dir_fd=self.root, dst_dir_fd=self.root)
        return f"disk:{name}"

    def _collect(self) -> None:
        with self.sub_folder(ASIDE) as aside:
            stale = [name for name in names_in(aside) if remove_if_there(aside, name)]
        if stale:
            log.info("disk.unfinished_removed", path=str(self.path), files=len(stale))


def names_in(folder: int) -> list[str]:
    """Names of what is in an open folder."""
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def is_there(root: int, path: str) -> bool:
    """Whether there is anything of a name."""
    try:
        os.lstat(path, dir_fd=root)
    except FileNotFoundError:
        return False
    return True
