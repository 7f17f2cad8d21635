"""Short forms of the calls that the checks of a storage backend make."""

from __future__ import annotations

from collections.abc import Callable

from lmcache_core.api import Deadline, PutStatus, StorageBackend
from lmcache_core.testing.material import aligned_buffer, sample_frame, sample_key
from lmcache_core.testing.threads import PATIENCE_SECONDS

PAGE = 4096
LARGE = 16 * PAGE

MakeBackend = Callable[[], StorageBackend]


class OpenBackends:
    """Opens the backends of one check and closes what the check left open.

    Args:
        make: Makes a backend over the check's store.
    """

    def __init__(self, make: MakeBackend) -> None:
        self._make = make
        self._open: list[StorageBackend] = []

    def open(self) -> StorageBackend:
        """Make a backend and open it."""
        return self.take(self._make())

    def take(self, backend: StorageBackend) -> StorageBackend:
        """Open a backend that the check made itself."""
        backend.open()
        self._open.append(backend)
        return backend

    def close(self, backend: StorageBackend) -> None:
        """Close one."""
        self._open.remove(backend)
        backend.close()

    def close_all(self) -> None:
        """Close the rest."""
        while self._open:
            self._open.pop().close()


def soon() -> Deadline:
    """A deadline that a working store keeps on a busy machine."""
    return Deadline(PATIENCE_SECONDS)


def put(backend: StorageBackend, number: int, nbytes: int = PAGE) -> PutStatus:
    """Store one sample frame."""
    return backend.put([sample_key(number)], [sample_frame(number, nbytes)], soon())[0]


def replace(backend: StorageBackend, number: int, by: int, nbytes: int = PAGE) -> bool:
    """Put the sample frame of another number in the place of one."""
    return backend.replace([sample_key(number)], [sample_frame(by, nbytes)], soon())[0]


def read(backend: StorageBackend, number: int, nbytes: int = PAGE) -> bytes | None:
    """Read one frame of at most ``nbytes``."""
    buffer = aligned_buffer(nbytes)
    length = backend.get([sample_key(number)], [buffer], soon())[0]
    return None if length is None else bytes(buffer[:length])


def stat(backend: StorageBackend, number: int) -> int | None:
    """The length of one frame."""
    return backend.stat([sample_key(number)], soon())[0]


def remove(backend: StorageBackend, number: int) -> bool:
    """Remove one frame."""
    return backend.remove([sample_key(number)], soon())[0]
