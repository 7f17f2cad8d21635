"""Reading and writing one whole file from and into a caller's buffer."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Sequence

from lmcache_backend_local_disk.calls import SystemCalls

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
        calls: The system's calls.
        direct: Whether to go past the page cache.

    Attributes:
        direct: See above.
    """

    def __init__(self, calls: SystemCalls, *, direct: bool) -> None:
        self._calls = calls
        self.direct = direct

    def write(self, folder: int, name: str, frame: memoryview) -> int:
        """Write a file that is not there.

        Args:
            folder: Descriptor of its folder.
            name: Its name.
            frame: Its content.

        Returns:
            Its descriptor, for who syncs and closes it.

        Raises:
            OSError: It cannot be written; part of it may be there.
        """
        calls = self._calls
        fd = calls.open(name, _WRITE | self._flag, 0o600, dir_fd=folder)
        try:
            whole = self._whole(frame.nbytes)
            done = _all_of(calls.pwritev, fd, frame[:whole], 0)
            if whole < frame.nbytes:
                page = memoryview(mmap.mmap(-1, PAGE))
                page[: frame.nbytes - whole] = frame[whole:]
                done += _all_of(calls.pwritev, fd, page, whole)
                calls.ftruncate(fd, frame.nbytes)
            _expect(done, frame.nbytes)
        except BaseException:
            calls.close(fd)
            raise
        return fd

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
        calls = self._calls
        fd = calls.open(name, _READ | self._flag, dir_fd=folder)
        try:
            length = calls.fstat(fd).st_size
            if length > buffer.nbytes:
                return None
            whole = self._whole(length)
            done = _all_of(calls.preadv, fd, buffer[:whole], 0)
            if done < whole or whole == length:
                return done
            page = memoryview(mmap.mmap(-1, PAGE))
            rest = min(calls.preadv(fd, [page], whole), length - whole)
            buffer[whole : whole + rest] = page[:rest]
            return whole + rest
        finally:
            calls.close(fd)

    def direct_io_works(self, folder: int, name: str) -> bool:
        """Whether a file of a folder can be written and read past the page cache.

        Raises:
            OSError: No file can be written there, for another reason than
                that the file system is full.
        """
        page = memoryview(mmap.mmap(-1, PAGE))
        probe = FrameFiles(self._calls, direct=True)
        try:
            self._calls.close(probe.write(folder, name, page))
            probe.read(folder, name, page)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                return False
            if error.errno not in FULL:  # then it could be opened, which is what is refused
                raise
        finally:
            remove_if_there(self._calls, folder, name)
        return True

    @property
    def _flag(self) -> int:
        return os.O_DIRECT if self.direct else 0

    def _whole(self, length: int) -> int:
        return length - length % PAGE if self.direct else length


def remove_if_there(calls: SystemCalls, folder: int, name: str) -> bool:
    """Remove a file; tell whether it was there.

    Raises:
        OSError: It is there and cannot be removed.
    """
    try:
        calls.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True


def _expect(done: int, wanted: int) -> None:
    if done < wanted:
        raise OSError(errno.EIO, f"{done} of {wanted} bytes were written")


def _all_of(move: Vectored, fd: int, view: memoryview, offset: int) -> int:
    """Go on until all is moved or nothing more is; how much was moved."""
    done = 0
    while done < view.nbytes:
        moved = move(fd, [view[done:]], offset + done)
        if not moved:
            break
        done += moved
    return done
