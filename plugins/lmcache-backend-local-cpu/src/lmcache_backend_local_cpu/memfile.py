"""Files in memory: how they are made, found by another process, and checked."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from lmcache_core.api import ExtentHandle
from lmcache_core.errors import BackendError

SHM = Path("/dev/shm")  # noqa: S108 - the file is made without a name and is ours alone
PREFIX = "lmcache-"
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
"""Nobody can shorten the file under a process that has it mapped."""


class MemoryFile(NamedTuple):
    """A file in memory.

    Attributes:
        fd: Its descriptor; whoever has it closes it.
        path: Its name, or None where it has none.
    """

    fd: int
    path: str | None


def openable_by_others() -> bool:
    """Whether another process of this user may open our descriptors.

    The kernel hands ``/proc/PID/fd`` of a process that must not be dumped to
    root, and refuses its descriptors to everyone else.
    """
    return Path("/proc/self/fd").stat().st_uid == os.geteuid()


def make_memfd(nbytes: int) -> MemoryFile:
    """Make an unnamed, sealed memory file.

    Raises:
        OSError: The kernel refuses.
    """
    fd = os.memfd_create(f"{PREFIX}{os.getpid()}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, nbytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return MemoryFile(fd, None)


def make_shm_file(nbytes: int, folder: Path = SHM) -> MemoryFile:
    """Make an exclusive file with a name that cannot be guessed.

    It is committed at once: a file system that is full later would end the
    process that touches the missing page. It gets its name only when it is
    locked, by which :func:`collect_stale` knows a living owner.

    Raises:
        BackendError: The file system has no room.
        OSError: The kernel refuses.
    """
    collect_stale(folder)
    usage = os.statvfs(folder)
    free_bytes = usage.f_bavail * usage.f_frsize
    if nbytes > free_bytes:
        raise BackendError(
            f"{nbytes} bytes of shared memory were asked for, and {folder} has {free_bytes} of "
            f"{usage.f_blocks * usage.f_frsize} bytes free; make it larger (`docker run "
            "--shm-size`), lower max_local_cpu_size, or set `shared: memfd`"
        )
    fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.posix_fallocate(fd, 0, nbytes)
        name = f"{PREFIX}{os.getpid()}-{secrets.token_hex(16)}"
        _give_name(fd, folder, name)
    except BaseException:
        os.close(fd)
        raise
    return MemoryFile(fd, str(folder / name))


def _give_name(fd: int, folder: Path, name: str) -> None:
    """Link an unnamed file; Python follows the link only where a folder's descriptor is given."""
    place = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        os.link(
            f"/proc/self/fd/{fd}", name, src_dir_fd=place, dst_dir_fd=place, follow_symlinks=True
        )
    finally:
        os.close(place)


def collect_stale(folder: Path = SHM) -> int:
    """Remove files of ours whose owner died before all had attached them.

    Returns:
        How many there were.
    """
    collected = 0
    for path in folder.glob(f"{PREFIX}*"):
        with suppress(OSError):  # another user's, another's to lock, or gone meanwhile
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                collected += 1
            finally:
                os.close(fd)
    return collected


def open_other(handle: ExtentHandle) -> int:
    """Open the file that another process made, and see that it is the one.

    Raises:
        BackendError: It is gone, refused, or not what the handle says.
    """
    source = handle.path or f"/proc/{handle.pid}/fd/{handle.fd}"
    if handle.path is None:
        _check_link(source, handle)
    try:
        fd = os.open(source, os.O_RDWR | os.O_CLOEXEC | (os.O_NOFOLLOW if handle.path else 0))
    except OSError as error:
        raise _cannot_open(source, handle, error) from error
    try:
        _check_file(fd, source, handle)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_link(source: str, handle: ExtentHandle) -> None:
    """Notice a descriptor or a process id that was used again."""
    try:
        target = str(Path(source).readlink())
    except OSError as error:
        raise _cannot_open(source, handle, error) from error
    if not target.startswith(f"/memfd:{PREFIX}{handle.pid} "):
        raise BackendError(
            f"{source} is {target}, not the region that process {handle.pid} made; "
            "that process has closed it or has ended"
        )


def _check_file(fd: int, source: str, handle: ExtentHandle) -> None:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size != handle.nbytes:
        raise BackendError(
            f"{source} has {status.st_size} bytes, and process {handle.pid} made a region of "
            f"{handle.nbytes}; both sides have to come from one start"
        )
    if handle.path is not None:
        if status.st_uid != os.geteuid():
            raise BackendError(
                f"{source} belongs to user {status.st_uid}, and this process runs as user "
                f"{os.geteuid()}; run both as one user"
            )
    elif fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS != SEALS:
        raise BackendError(f"{source} is not sealed: it is no region of this backend")


def _cannot_open(source: str, handle: ExtentHandle, error: OSError) -> BackendError:
    if isinstance(error, PermissionError):
        advice = "run both processes as one user, or set `shared: shm`"
    else:
        advice = (
            f"process {handle.pid} has ended, has released the region, or is in another "
            "container; the processes of one instance share a process namespace"
        )
    return BackendError(
        f"the region of process {handle.pid} cannot be opened as {source}: "
        f"{error.strerror}; {advice}"
    )
