"""Getting a frame into its buffer, by parts that come in any order."""

from __future__ import annotations

from lmcache_backend_object_store.found import Found


class Download:
    """One frame on its way.

    What has come is copied by the thread that waits for it, between two
    waits: nothing is written once it has stopped waiting.

    Args:
        buffer: Where it goes.

    Attributes:
        found: The object that was read, None where none has been.
    """

    def __init__(self, buffer: memoryview) -> None:
        self.found: Found | None = None
        self._buffer = buffer
        self._copied_bytes = 0
        self._torn = False

    def take(self, start: int, found: Found, data: bytes | memoryview) -> None:
        """Copy a part that has come, unless the whole is longer than the buffer."""
        if self.found is not None and found != self.found:
            # It was replaced between two requests.
            self._torn = True
        self.found = found
        if not self._torn and found.nbytes <= self._buffer.nbytes:
            self._buffer[start : start + len(data)] = data
            self._copied_bytes += len(data)

    @property
    def nbytes(self) -> int | None:
        """Length of the frame that is in the buffer, None where there is none whole."""
        if self.found is None or self._torn or self._copied_bytes != self.found.nbytes:
            return None
        return self.found.nbytes
