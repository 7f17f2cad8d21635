"""Whether a file is the frame that its name says, and whole."""

from __future__ import annotations

import mmap
import os

import xxhash

from lmcache_backend_local_disk.calls import SystemCalls
from lmcache_core.api.frames import HEADER_BYTES, FrameEnvelope
from lmcache_core.errors import FrameError
from lmcache_core.keys import Key

PIECE_BYTES = 1 << 20
"""Read at a time, so that verifying takes no more memory than that."""


class FrameCheck:
    """Reads files and checks all that can be checked without knowing the chunk.

    Not thread-safe: it has one buffer.

    Args:
        calls: The system's calls.
        direct: Whether to go past the page cache.
    """

    def __init__(self, calls: SystemCalls, *, direct: bool) -> None:
        self._calls = calls
        self._direct = direct
        self._buffer = memoryview(mmap.mmap(-1, PIECE_BYTES))

    def reason(self, folder: int | None, path: str, key: Key) -> str | None:
        """Why a file is no whole frame of a key; None where it is one.

        Args:
            folder: Descriptor of a folder, or None for where the process is.
            path: The file, from there.
            key: The key that its name says.

        Raises:
            OSError: It cannot be read.
        """
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_DIRECT if self._direct else 0)
        fd = self._calls.open(path, flags, dir_fd=folder)
        try:
            nbytes = self._calls.fstat(fd).st_size
            first = self._piece(fd, 0, nbytes)
            envelope, _ = FrameEnvelope.parse(first)
            if envelope.key != key:
                return f"it is the frame of another key, {envelope.key.hex()}"
            if envelope.stored_bytes != nbytes - HEADER_BYTES:
                expected = HEADER_BYTES + envelope.stored_bytes
                return f"frame of {nbytes} bytes, expected {expected}"
            digest, at = xxhash.xxh3_64(first[HEADER_BYTES:]), len(first)
            while at < nbytes:
                piece = self._piece(fd, at, nbytes)
                digest.update(piece)
                at += len(piece)
        except FrameError as error:
            return str(error)
        finally:
            self._calls.close(fd)
        if digest.intdigest() != envelope.payload_check:
            return "the checksum of the payload does not match"
        return None

    def _piece(self, fd: int, at: int, nbytes: int) -> memoryview:
        """What lies at an offset, as far as the buffer goes.

        Raises:
            FrameError: It ends before it should.
        """
        wanted = min(PIECE_BYTES, nbytes - at)
        done = 0
        while done < wanted:
            read = self._calls.preadv(fd, [self._buffer[done:]], at + done)
            if not read:
                raise FrameError(f"the file ends after {at + done} of {nbytes} bytes")
            done += read
            if done < wanted:
                done -= done % mmap.PAGESIZE  # Direct I/O goes on at a whole page only.
                if not done:
                    raise FrameError(f"the file gives {read} of {nbytes} bytes")
        return self._buffer[:wanted]
