"""The system calls by which files are reached, in one place where a test can stand between."""

from __future__ import annotations

import ctypes
import fcntl
import os

_libc = ctypes.CDLL(None, use_errno=True)


class SystemCalls:
    """The kernel's own calls, under their own names and with nothing added.

    Python repeats a call that a signal has interrupted, so that ``EINTR`` is
    never seen.
    """

    open = staticmethod(os.open)
    close = staticmethod(os.close)
    pwritev = staticmethod(os.pwritev)
    preadv = staticmethod(os.preadv)
    ftruncate = staticmethod(os.ftruncate)
    fsync = staticmethod(os.fsync)
    rename = staticmethod(os.rename)
    unlink = staticmethod(os.unlink)
    mkdir = staticmethod(os.mkdir)
    lstat = staticmethod(os.lstat)
    fstat = staticmethod(os.fstat)
    fstatvfs = staticmethod(os.fstatvfs)
    flock = staticmethod(fcntl.flock)

    @staticmethod
    def listdir(fd: int) -> list[str]:
        """Names of what is in an open folder."""
        return os.listdir(fd)

    @staticmethod
    def syncfs(fd: int) -> None:
        """Put all that a file system holds onto its device: data, names, removals.

        Args:
            fd: Any file or folder on it.

        Raises:
            OSError: Not all of it is there.
        """
        if _libc.syncfs(fd):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))


SYSTEM = SystemCalls()
