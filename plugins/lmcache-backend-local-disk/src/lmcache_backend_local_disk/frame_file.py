"""Reading and writing one whole file from and into a caller's buffer."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Sequence

PAGE = mmap.PAGESIZE
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What a file system answers that has no room."""

Vectored = Callable[[int, Sequence[memoryview], int], int]


class FrameFiles:
    """Files as they are written once and read whole.

    Direct I/O moves whole pages between the device and the caller's aligned
    buffer; what is left at the end goes through a page of its own. A file is
    as long as its frame.

    Args:
        direct: Whether to go past the page cache.

    Attributes:
        direct: See above.
    """

    def __init__(self, *, direct: bool) -> None:
        self.direct = direct

    def write(self, folder: int, name: str, frame: memoryview) -> None:
        """Write a file that is not there.

        Args:
            folder: Descriptor of its folder.
            name: Its name.
            frame: Its content.

        Raises:
            OSError: It cannot be written; part of it may be there.
        """
        fd = os.open(name, _WRITE | self._flag, 0o600, dir_fd=folder)
        try:
            whole = self._whole(frame.nbytes)
            done = _all_of(os.pwritev, fd, frame[:whole], 0)
            if whole < frame.nbytes:
                page = memoryview(mmap.mmap(-1, PAGE))
                page[: frame.nbytes - whole] = frame[whole:]
                done += _all_of(os.pwritev, fd, page, whole)
                os.ftruncate(fd, frame.nbytes)
            if done < frame.nbytes:
                raise OSError(errno.EIO, f"{done} of {frame.nbytes} bytes were written")
        finally:
            os.close(fd)

    def read(self, folder: int, name: str, buffer: memoryview) -> int | None:
        """Read a file.

        Args:
            folder: Descriptor of its folder.
            name: Its name.
            buffer: Where its content goes; bytes behind it are left alone.

        Returns:
            Its length, or None where the buffer is too short for it.

        Raises:
            OSError: It cannot be opened or read.
        """
        fd = os.open(name, _READ | self._flag, dir_fd=folder)
        try:
            length = os.fstat(fd).st_size
            if length > buffer.nbytes:
                return None
            whole = self._whole(length)
            done = _all_of(os.preadv, fd, buffer[:whole], 0)
            if done < whole or whole == length:
                return done
            page = memoryview(mmap.mmap(-1, PAGE))
            rest = min(os.preadv(fd, [page], whole), length - whole)
            buffer[whole : whole + rest] = page[:rest]
            return whole + rest
        finally:
            os.close(fd)

    @property
    def _flag(self) -> int:
        return os.O_DIRECT if self.direct else 0

    def _whole(self, length: int) -> int:
        return length - length % PAGE if self.direct else length


def direct_io_works(folder: int, name: str) -> bool:
    """Whether a file of a folder can be written and read past the page cache.

    Raises:
        OSError: No file can be written there, for another reason than that
            the file system is full.
    """
    page = memoryview(mmap.mmap(-1, PAGE))
    files = FrameFiles(direct=True)
    try:
        files.write(folder, name, page)
        files.read(folder, name, page)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return False
        if error.errno not in FULL:  # then it could be opened, which is what is refused
            raise
    finally:
        remove_if_there(folder, name)
    return True


def remove_if_there(folder: int, name: str) -> bool:
    """Remove a file; tell whether it was there.

    Raises:
        OSError: It is there and cannot be removed.
    """
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True


def _all_of(move: Vectored, fd: int, view: memoryview, offset: int) -> int:
    """Go on until all is moved or nothing more is; how much was moved."""
    done = 0
    while done < view.nbytes:
        moved = move(fd, [view[done:]], offset + done)
        if not moved:
            break
        done += moved
    return done
