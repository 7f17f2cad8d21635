"""Frames whose payload a store has as a chain of serdes has encoded it."""

from __future__ import annotations

import mmap
import queue
import secrets
from collections.abc import Sequence

import xxhash

from lmcache_core.api.frames import HEADER_BYTES
from lmcache_core.engine.chunks.geometry import slot_size
from lmcache_core.engine.frames.calls import BackendCalls
from lmcache_core.engine.frames.encoding import Encoding
from lmcache_core.engine.frames.frame import ForeignFrameError, FrameSeal, check_payload
from lmcache_core.engine.frames.header import FrameHeader
from lmcache_core.engine.frames.reading import Read, Verdict
from lmcache_core.engine.frames.sealer import Sealing
from lmcache_core.engine.frames.serde_chain import SerdeChain
from lmcache_core.errors import FrameError, SerdeError
from lmcache_core.memory.copying import copy_bytes

BATCH_BYTES = 8 << 20
"""Asked of a store in one call, but at least one frame."""

MAX_BATCH = 32

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


class EncodedFrames:
    """The form of a tier with serdes: encoded frames are in buffers of its own, never in slots.

    Args:
        seal: Verifies what headers say.
        chain: The serdes; closed with it.
        frame_bytes: Length of the longest raw frame.
        readers: Threads that may read at once.
    """

    encoded = True

    def __init__(
        self, seal: FrameSeal, chain: SerdeChain, *, frame_bytes: int, readers: int
    ) -> None:
        self._seal = seal
        self._chain = chain
        self._longest = slot_size(frame_bytes + frame_bytes // 8 + SLACK_BYTES)
        self._batch = max(1, min(MAX_BATCH, BATCH_BYTES // frame_bytes))
        spare = 2 if len(chain) > 1 else 0
        self._out = Arena(1, 0, self._longest).cells[0]
        self._arenas: queue.SimpleQueue[Arena] = queue.SimpleQueue()
        for _ in range(readers):
            self._arenas.put(Arena(self._batch, spare, self._longest))

    def longest(self, read: Read) -> int:
        """As long as the buffers are."""
        del read
        return self._longest

    def outgoing(self, sealing: Sealing) -> memoryview:
        """The frame with its payload encoded."""
        sealing.seal()
        header = FrameHeader.parse(sealing.frame)
        stages, data = self._chain.encode(header.binding, sealing.frame[HEADER_BYTES:])
        nbytes = HEADER_BYTES + len(data)
        if nbytes > self._longest:
            message = (
                f"a payload of {header.raw_bytes} bytes is {len(data)} encoded; at most "
                f"{self._longest - HEADER_BYTES} are stored"
            )
            raise SerdeError(message)
        self._out[:HEADER_BYTES] = header._replace(
            stored_bytes=len(data),
            frame_id=secrets.token_bytes(16),
            payload_check=xxhash.xxh3_64_intdigest(data),
            encoding=Encoding(header.payload_check, tuple(stages)),
        ).pack()
        copy_bytes(self._out[HEADER_BYTES:nbytes], data)
        return self._out[:nbytes]

    def incoming(self, reads: Sequence[Read], calls: BackendCalls, namespace: bytes) -> Verdict:
        """Read some at a time, and decode each into its slot."""
        verdict = Verdict()
        arena = self._arenas.get()
        try:
            for first in range(0, len(reads), self._batch):
                batch = reads[first : first + self._batch]
                keys, cells = [read.entry.key for read in batch], arena.cells[: len(batch)]
                lengths = calls.get(keys, cells)
                for read, cell, length in zip(batch, cells, lengths, strict=True):

                    def decode(read: Read, length: int, cell: memoryview = cell) -> None:
                        self._decode(read, cell[:length], arena.spare, namespace)

                    verdict.note(read, length, decode)
        finally:
            self._arenas.put(arena)
        return verdict

    def close(self) -> None:
        """Close the serdes."""
        self._chain.close()

    def _decode(
        self, read: Read, stored: memoryview, spare: Sequence[memoryview], namespace: bytes
    ) -> None:
        """Verify a stored frame and make the raw one of it, sealed, in the slot."""
        header = FrameHeader.parse(stored)
        pages = self._seal.check(read.entry, header, namespace)
        if not self._chain.takes(header.serdes):
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
            self._chain.decode(header.binding, stages, data, payload, spare)
            if xxhash.xxh3_64_intdigest(payload) != raw_check:
                raise FrameError(f"{', '.join(header.serdes)} gave back other bytes")
            raw = header._replace(
                stored_bytes=header.raw_bytes, payload_check=raw_check, encoding=None
            )
        read.frame[:HEADER_BYTES] = raw.pack()
        read.entry.pages = pages
        read.entry.sealed = True
