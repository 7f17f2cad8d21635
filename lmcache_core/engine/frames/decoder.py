"""Making the raw frame of a chunk of what a store has of it."""

from __future__ import annotations

import mmap
import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import xxhash

from lmcache_core.api.frames import HEADER_BYTES
from lmcache_core.engine.chunks.geometry import slot_size
from lmcache_core.engine.frames.frame import ForeignFrameError, FrameSeal, check_payload
from lmcache_core.engine.frames.header import FrameHeader
from lmcache_core.engine.frames.reading import Read
from lmcache_core.engine.frames.serde_shelf import SerdeShelf
from lmcache_core.errors import FrameError
from lmcache_core.memory.copying import copy_bytes

SLACK_BYTES = 64 << 10
"""Beside an eighth, what an encoded frame may be longer than a raw one."""


class Arena:
    """Buffers of one thread: some for encoded frames, and some for what is between two serdes.

    Memory is taken from the machine as it is first written to.

    Args:
        cells: How many frames.
        spare: How many others.
        nbytes: Length of each; whole pages.
    """

    def __init__(self, cells: int, spare: int, nbytes: int) -> None:
        memory = memoryview(mmap.mmap(-1, (cells + spare) * nbytes))
        parts = [memory[at : at + nbytes] for at in range(0, len(memory), nbytes)]
        self.cells, self.spare = parts[:cells], parts[cells:]


class Arenas:
    """An arena for each thread that may need one, made when it does.

    Args:
        threads: How many may need one at once.
        cells: Frames of each.
        nbytes: Length of each buffer.
    """

    def __init__(self, threads: int, cells: int, nbytes: int) -> None:
        self._cells = cells
        self._nbytes = nbytes
        self._free: queue.SimpleQueue[Arena | None] = queue.SimpleQueue()
        for _ in range(threads):
            self._free.put(None)

    @contextmanager
    def borrowed(self) -> Iterator[Arena]:
        """One of them for a while."""
        arena = self._free.get()
        try:
            if arena is None:
                arena = Arena(self._cells, 2, self._nbytes)
            yield arena
        finally:
            self._free.put(arena)


class Decoder:
    """Decodes stored frames, by whichever serdes of a shelf have encoded them.

    Args:
        seal: Verifies what headers say.
        shelf: The serdes; closed with it.
        frame_bytes: Length of the longest raw frame.

    Attributes:
        shelf: See above.
        frame_bytes: See above.
        longest_bytes: Length of the longest frame that is stored, in whole pages.
    """

    def __init__(self, seal: FrameSeal, shelf: SerdeShelf, frame_bytes: int) -> None:
        self.shelf = shelf
        self.frame_bytes = frame_bytes
        self.longest_bytes = slot_size(frame_bytes + frame_bytes // 8 + SLACK_BYTES)
        self._seal = seal

    def decode(
        self, read: Read, stored: memoryview, spare: Sequence[memoryview], namespace: bytes
    ) -> FrameHeader:
        """Verify a stored frame and make the raw one of it, sealed, in the slot.

        Args:
            read: What was asked, and its slot.
            stored: The frame, which is not in the slot.
            spare: Two buffers for what is between two serdes.
            namespace: What the frame has to be bound to.

        Returns:
            The header that was stored.

        Raises:
            FrameError: It is damaged, another chunk's, or another namespace's.
            ForeignFrameError: It is in a form that cannot be read here.
            SerdeError: A serde did not encode it.
        """
        header = FrameHeader.parse(stored)
        pages = self._seal.check(read.entry, header, namespace)
        chain = self.shelf.reader(header.serdes)
        if chain is None:
            how = f"was encoded by {', '.join(header.serdes)}" if header.serdes else "is raw"
            raise ForeignFrameError(f"the frame {how}, which is not how this tier reads")
        if HEADER_BYTES + header.raw_bytes > len(read.frame):
            raise ForeignFrameError(f"the frame has {header.raw_bytes} raw bytes, too many")
        data = stored[HEADER_BYTES:]
        check_payload(header, data)
        payload = read.frame[HEADER_BYTES : HEADER_BYTES + header.raw_bytes]
        raw = header
        if header.encoding is None:
            if header.stored_bytes != header.raw_bytes:
                raise FrameError(f"a raw payload of {header.stored_bytes} bytes says otherwise")
            copy_bytes(payload, data)
        else:
            raw_check, stages = header.encoding
            if stages[0].nbytes != header.raw_bytes:
                raise FrameError(f"the first serde was given {stages[0].nbytes} bytes of payload")
            chain.decode(header.binding, stages, data, payload, spare)
            if xxhash.xxh3_64_intdigest(payload) != raw_check:
                raise FrameError(f"{', '.join(header.serdes)} gave back other bytes")
            raw = header._replace(
                stored_bytes=header.raw_bytes, payload_check=raw_check, encoding=None
            )
        read.frame[:HEADER_BYTES] = raw.pack()
        read.entry.pages = pages
        read.entry.sealed = True
        return header

    def close(self) -> None:
        """Close the serdes."""
        self.shelf.close()
