"""``LocalCPUBackend``: one region of host memory, shared by descriptor."""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import suppress
from ctypes import addressof, c_char
from pathlib import Path

from lmcache_backend_local_cpu.bounds import tightest_bound
from lmcache_backend_local_cpu.config import LocalCPUConfig
from lmcache_backend_local_cpu.memfile import (
    MemoryFile,
    make_memfd,
    make_shm_file,
    open_other,
    openable_by_others,
)
from lmcache_core.api import BackendContext, Extent, ExtentHandle, MemoryBackend
from lmcache_core.errors import BackendError
from lmcache_core.log import get_logger

log = get_logger(__name__)

MADV_POPULATE_WRITE = 23
"""Since Linux 5.14; Python has no name for it yet."""

PREFAULT_STEP_BYTES = 64 << 20
"""Committed in one call, which holds the interpreter's lock for some ten milliseconds."""


class LocalCPUBackend(MemoryBackend):
    """Host memory that the processes of one instance map.

    The region is a sealed memory file without a name, which needs no room in
    ``/dev/shm`` and cannot be left behind. Its size is checked against what
    machine and control groups have left, since the kernel would only notice
    when pages are touched.

    Args:
        config: How it is had and shared.
        context: The place it is used in.
    """

    def __init__(self, config: LocalCPUConfig, context: BackendContext) -> None:
        self._config = config
        self._log = log.bind(instance_id=context.instance_id, tier=context.tier)

    def create(self, nbytes: int) -> Extent:
        """Make a region of zeroed memory, committed as it is used unless configured.

        Raises:
            BackendError: It cannot be had; the message says what bounds it.
        """
        if nbytes < 1:
            raise BackendError(f"{nbytes} bytes of host memory were asked for; the least is 1")
        bound = tightest_bound()
        if bound is not None and nbytes > bound.free_bytes:
            raise BackendError(
                f"{nbytes} bytes of host memory were asked for, and {bound.free_bytes} are left "
                f"({bound.what}); lower max_local_cpu_size and staging_size"
            )
        try:
            file = self._make_file(nbytes)
        except OSError as error:
            raise BackendError(
                f"{nbytes} bytes of host memory cannot be had: {error.strerror}"
            ) from error
        handle = ExtentHandle(
            pid=os.getpid(), fd=file.fd, boot_id=boot_id(), nbytes=nbytes, path=file.path
        )
        try:
            extent = _map(handle, file.fd, self._config.hugepages, self._config.prefault)
        except BaseException:
            os.close(file.fd)
            _unlink(handle)
            raise
        if self._config.hugepages:
            self._tell_of_huge_pages()
        self._log.info("region.created", nbytes=nbytes, path=file.path)
        return extent

    def attach(self, handle: ExtentHandle) -> Extent:
        """Map a region that another process of this host made.

        Raises:
            BackendError: It is another host's, gone, refused, or not what the
                handle says.
        """
        here = boot_id()
        if handle.boot_id != here:
            raise BackendError(
                f"the region of process {handle.pid} is on another host (its boot id is "
                f"{handle.boot_id}, this host's {here}); an instance is one host"
            )
        fd = open_other(handle)
        try:
            extent = _map(handle, fd, self._config.hugepages, prefault=False)
        except BaseException:
            os.close(fd)
            raise
        self._log.info("region.attached", nbytes=handle.nbytes, pid=handle.pid)
        return extent

    def forget_name(self, extent: Extent) -> None:
        """Remove the file in ``/dev/shm``, if there is one; the memory stays."""
        _unlink(extent.handle)

    def release(self, extent: Extent) -> None:
        """Unmap a region made or attached here; idempotent."""
        extent.close()
        _unlink(extent.handle)

    def _make_file(self, nbytes: int) -> MemoryFile:
        shared = self._config.shared
        if shared == "shm" or (shared == "auto" and not openable_by_others()):
            return make_shm_file(nbytes)
        return make_memfd(nbytes)

    def _tell_of_huge_pages(self) -> None:
        setting = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
        text = setting.read_text().strip() if setting.exists() else "[none]"
        if "[never]" in text or "[deny]" in text or "[none]" in text:
            self._log.warning(
                "huge_pages.unavailable",
                setting=text,
                advice=f"write `advise` to {setting} to have them",
            )


def boot_id() -> str:
    """The kernel's id of this boot, which no two hosts share."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _map(handle: ExtentHandle, fd: int, hugepages: bool, prefault: bool) -> Extent:
    """Map a file; its descriptor belongs to the extent only when this returns."""
    nbytes = handle.nbytes
    try:
        mapping = mmap.mmap(fd, nbytes)
    except OSError as error:
        raise BackendError(
            f"{nbytes} bytes of host memory cannot be mapped: {error.strerror}; the address "
            "space of the process is bounded (`ulimit -v`)"
        ) from error
    try:
        if hugepages:
            with suppress(OSError):  # a kernel without them; `create` tells of it
                mapping.madvise(mmap.MADV_HUGEPAGE)
        if prefault:
            _prefault(mapping, fd, nbytes)
    except BaseException:
        mapping.close()
        raise
    return Extent(handle, mapping, fd, addressof(c_char.from_buffer(mapping)))


def _prefault(mapping: mmap.mmap, fd: int, nbytes: int) -> None:
    for start in range(0, nbytes, PREFAULT_STEP_BYTES):
        length = min(PREFAULT_STEP_BYTES, nbytes - start)
        try:
            mapping.madvise(MADV_POPULATE_WRITE, start, length)
        except OSError as error:
            if error.errno == errno.EINVAL:  # an older kernel: commit, but map on first use
                os.posix_fallocate(fd, 0, nbytes)
                return
            raise BackendError(
                f"{nbytes} bytes of host memory were asked for, and only {start} could be "
                f"committed: {error.strerror}; lower max_local_cpu_size"
            ) from error


def _unlink(handle: ExtentHandle) -> None:
    if handle.path is not None:
        Path(handle.path).unlink(missing_ok=True)
