"""The contract of a memory backend: addressable extents and nothing else."""

from __future__ import annotations

import mmap
import os
from abc import ABC, abstractmethod

import msgspec

from lmcache_core.errors import LMCacheError


class ExtentHandle(msgspec.Struct, frozen=True, kw_only=True):
    """What another process of the same host needs to map an extent.

    Attributes:
        pid: Process that made the extent and holds ``fd`` open.
        fd: Its descriptor there.
        boot_id: The kernel's boot id, so that another host is recognised.
        nbytes: Length of the extent.
        path: Name in a file system, or None where the descriptor is the name.
    """

    pid: int
    fd: int
    boot_id: str
    nbytes: int
    path: str | None = None


class Extent:
    """A run of shared memory mapped into this process.

    Args:
        handle: What other processes map it by.
        mapping: The mapping.
        fd: This process's descriptor, closed with the extent.

    Attributes:
        handle: See above.
        address: Where it is mapped in this process.
    """

    def __init__(self, handle: ExtentHandle, mapping: mmap.mmap, fd: int, address: int) -> None:
        self.handle = handle
        self.address = address
        self._mapping: mmap.mmap | None = mapping
        self._fd = fd

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return self.handle.nbytes

    def view(self, offset: int, nbytes: int) -> memoryview:
        """A writable view of a part of it.

        Args:
            offset: Where the part starts, in bytes.
            nbytes: Its length.

        Raises:
            LMCacheError: The part is not inside, or the extent is closed.
        """
        if self._mapping is None:
            raise LMCacheError("a view was asked for of an extent that is closed")
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise LMCacheError(
                f"bytes {offset} to {offset + nbytes} were asked for of an extent of "
                f"{self.nbytes} bytes"
            )
        return memoryview(self._mapping)[offset : offset + nbytes]

    def close(self) -> None:
        """Unmap it and close its descriptor; idempotent; called by the backend.

        Where views are still held, the mapping goes with the last of them:
        memory is never taken from under a reader.
        """
        mapping, self._mapping = self._mapping, None
        if mapping is None:
            return
        try:
            mapping.close()
        except BufferError:
            # The views keep the mapping; dropping the reference is all there is to do.
            del mapping
        os.close(self._fd)


class MemoryBackend(ABC):
    """Provides the shared region that a pool hands slots out of.

    To write one: subclass, implement the three abstract methods and hand it
    over in a :class:`~lmcache_core.api.MemoryBackendSpec` from
    ``lmcache_register_storage_backends``.

    *Guaranteed* for every method: called from the thread that starts or stops
    the engine or a worker, never while requests are served, so that it may
    take its time.
    """

    @abstractmethod
    def create(self, nbytes: int) -> Extent:
        """Make an extent of zeroed, shareable memory.

        *Must*: commit pages as they are used unless page-locking needs them.

        Raises:
            BackendError: The memory cannot be had; the message says how much
                was asked for and what bounds it.
        """

    @abstractmethod
    def attach(self, handle: ExtentHandle) -> Extent:
        """Map an extent that another process of this host made.

        *Must*: work for any number of processes, one after the other, until
        one of them calls :meth:`forget_name`.

        Raises:
            BackendError: It is another host's, gone, or may not be opened.
        """

    def forget_name(self, extent: Extent) -> None:  # noqa: B027 - for most there is nothing to do
        """Take away the name that an extent is attached by, now that all have it.

        *Guaranteed*: called once, by the last process to attach it.
        *Must*: leave the memory as it is in every process that has it, and
        give it back to the host with the last of them. An extent without a
        name has nothing to lose.
        """

    @abstractmethod
    def release(self, extent: Extent) -> None:
        """Unmap an extent made or attached here.

        *Must*: be idempotent; leave a mapping alone whose views are still
        held, which goes with the last of them.
        """
