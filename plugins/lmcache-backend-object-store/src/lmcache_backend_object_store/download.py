"""Getting a frame into its buffer, by parts that come in any order."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from lmcache_backend_object_store.bucket import Bucket, Found, Piece
from lmcache_backend_object_store.parts import cut


class Download:
    """One frame on its way.

    The requests never see the buffer: whoever waits for them copies what has
    come, on its own thread, and stops doing so when it stops waiting.

    Args:
        name: Of the object.
        buffer: Where it goes; a frame is expected to be as long.
        part_bytes: The most that is asked for at once.

    Attributes:
        found: The object that was read, None where none has been.
    """

    def __init__(self, name: str, buffer: memoryview, part_bytes: int) -> None:
        self.found: Found | None = None
        self._name = name
        self._buffer = buffer.cast("B")
        self._cuts = cut(buffer.nbytes, part_bytes)
        self._copied_bytes = 0
        self._torn = False

    def requests(self, bucket: Bucket) -> list[Coroutine[Any, Any, Piece | None]]:
        """What has to be asked, a request for each part."""
        if len(self._cuts) == 1:
            return [bucket.get(self._name, self._buffer.nbytes)]
        return [bucket.get_range(self._name, *ends) for ends in self._cuts]

    def take(self, number: int, piece: Piece | None) -> None:
        """Copy a part that has come; None where the object does not go so far."""
        if piece is None:
            return
        if self.found is not None and piece.found != self.found:
            # It was replaced between two requests.
            self._torn = True
        self.found = piece.found
        if not self._torn and piece.found.nbytes <= self._buffer.nbytes:
            start = self._cuts[number][0]
            self._buffer[start : start + len(piece.data)] = piece.data
            self._copied_bytes += len(piece.data)

    def answer(self) -> int | None:
        """The length of the frame that is in the buffer, None where there is none whole."""
        if self.found is None or self._torn or self._copied_bytes != self.found.nbytes:
            return None
        return self.found.nbytes
