"""Keys and their lengths side by side, so that telling of them is a copy."""

from __future__ import annotations

from array import array

from lmcache_core.keys import KEY_BYTES, Key

SHEET_BITS = 12
SHEET = 1 << SHEET_BITS
"""Keys in one sheet. The bytes of a million take milliseconds to move when they grow."""


class Roster:
    """A list of keys with the bytes of each, without gaps, in sheets of 4096."""

    __slots__ = ("_count", "_keys", "_nbytes")

    def __init__(self) -> None:
        self._count = 0
        self._keys: list[bytearray] = []
        self._nbytes: list[array[int]] = []

    def __len__(self) -> int:
        """Number of keys."""
        return self._count

    def packed(self, start: int, stop: int) -> bytes:
        """The keys from one place to before another, 32 bytes each."""
        parts = []
        while start < stop:
            number, at = start >> SHEET_BITS, start % SHEET
            count = min(stop - start, SHEET - at)
            parts.append(self._keys[number][at * KEY_BYTES : (at + count) * KEY_BYTES])
            start += count
        return b"".join(parts)

    def nbytes(self, place: int) -> int:
        """Bytes of the key at a place."""
        return self._nbytes[place >> SHEET_BITS][place % SHEET]

    def resize(self, place: int, nbytes: int) -> None:
        """Give the key at a place other bytes."""
        self._nbytes[place >> SHEET_BITS][place % SHEET] = nbytes

    def append(self, key: Key, nbytes: int) -> int:
        """Put a key at the end; return its place."""
        place = self._count
        if place >> SHEET_BITS == len(self._keys):
            self._keys.append(bytearray())
            self._nbytes.append(array("q"))
        self._keys[-1] += key
        self._nbytes[-1].append(nbytes)
        self._count = place + 1
        return place

    def take_out(self, place: int) -> tuple[int, Key | None]:
        """Let the last key take a place.

        Returns:
            Bytes of the key that was there, and the key that is there now, or
            None where the last one has gone.
        """
        keys, sizes = self._keys[-1], self._nbytes[-1]
        last, last_nbytes = bytes(keys[-KEY_BYTES:]), sizes.pop()
        del keys[-KEY_BYTES:]
        if not keys:
            del self._keys[-1], self._nbytes[-1]
        self._count -= 1
        if place == self._count:
            return last_nbytes, None
        at, sizes = place % SHEET, self._nbytes[place >> SHEET_BITS]
        nbytes, sizes[at] = sizes[at], last_nbytes
        self._keys[place >> SHEET_BITS][at * KEY_BYTES : (at + 1) * KEY_BYTES] = last
        return nbytes, last
