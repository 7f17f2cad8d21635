"""The shared memory of one instance."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from lmcache_core.api import BackendContext, Extent, ExtentHandle, MemoryBackend, MemoryBackendSpec
from lmcache_core.config import plugin_section


class HostRegion:
    """One extent of a memory backend and the backend that it came from.

    Made by the process that sizes it and attached by every other process of
    the instance; see :meth:`create` and :meth:`attach`. Whoever has it closes
    it, after the movers that know its address.

    Args:
        backend: Made the extent and releases it.
        extent: The memory.

    Attributes:
        extent: The memory; its ``handle`` is what another process attaches by.
    """

    def __init__(self, backend: MemoryBackend, extent: Extent) -> None:
        self.extent = extent
        self._backend = backend

    @classmethod
    def create(
        cls,
        spec: MemoryBackendSpec,
        options: Mapping[str, object],
        context: BackendContext,
        nbytes: int,
    ) -> HostRegion:
        """Make a region of zeroed memory.

        Args:
            spec: The memory backend.
            options: The backend's own section, not yet validated.
            context: The place it is used in.
            nbytes: Length of the region.

        Raises:
            ConfigError: The options are not the backend's.
            BackendError: The memory cannot be had.
        """
        backend = _backend(spec, options, context)
        return cls(backend, backend.create(nbytes))

    @classmethod
    def attach(
        cls,
        spec: MemoryBackendSpec,
        options: Mapping[str, object],
        context: BackendContext,
        handle: ExtentHandle,
    ) -> HostRegion:
        """Map the region that another process of this host made.

        Args:
            spec: The memory backend; the same as there.
            options: The backend's own section, not yet validated.
            context: The place it is used in.
            handle: The other process's ``extent.handle``.

        Raises:
            ConfigError: The options are not the backend's.
            BackendError: The region is another host's, gone, or may not be
                opened.
        """
        backend = _backend(spec, options, context)
        return cls(backend, backend.attach(handle))

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return self.extent.nbytes

    @property
    def address(self) -> int:
        """Where it is mapped in this process."""
        return self.extent.address

    def view(self, offset: int, nbytes: int) -> memoryview:
        """A writable view of ``nbytes`` bytes from ``offset`` on.

        Raises:
            LMCacheError: They are not inside the region, or it is closed.
        """
        return self.extent.view(offset, nbytes)

    def forget_name(self) -> None:
        """Say that every process of the instance has attached it; nothing is left to find."""
        self._backend.forget_name(self.extent)

    def close(self) -> None:
        """Unmap it in this process; idempotent."""
        self._backend.release(self.extent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _backend(
    spec: MemoryBackendSpec, options: Mapping[str, object], context: BackendContext
) -> MemoryBackend:
    config = plugin_section(spec.config, options, f"memory backend {spec.name}")
    return spec.load()(config, context)
