"""Frames whose payload a store has as a chain of serdes has encoded it."""

from __future__ import annotations

from collections.abc import Sequence

from lmcache_core.engine.frames.calls import BackendCalls
from lmcache_core.engine.frames.decoder import Arena, Arenas, Decoder
from lmcache_core.engine.frames.encoder import encode_frame
from lmcache_core.engine.frames.reading import Read, Verdict
from lmcache_core.engine.frames.sealer import Sealing

BATCH_BYTES = 8 << 20
"""Asked of a store in one call, but at least one frame."""

MAX_BATCH = 32


class EncodedFrames:
    """The form of a tier with serdes: encoded frames are in buffers of its own, never in slots.

    Args:
        decoder: Decodes frames; closed with it.
        readers: Threads that may read at once.
    """

    encoded = True

    def __init__(self, decoder: Decoder, *, readers: int) -> None:
        self.decoder = decoder
        self._longest = decoder.longest_bytes
        self._batch = max(1, min(MAX_BATCH, BATCH_BYTES // decoder.frame_bytes))
        self._out = Arena(1, 0, self._longest).cells[0]
        self._arenas = Arenas(readers, self._batch, self._longest)

    def longest(self, read: Read) -> int:
        """As long as the buffers are."""
        del read
        return self._longest

    def outgoing(self, sealing: Sealing) -> memoryview:
        """The frame with its payload encoded."""
        sealing.seal()
        return encode_frame(self.decoder.shelf.own, sealing.frame, self._out)

    def incoming(self, reads: Sequence[Read], calls: BackendCalls, namespace: bytes) -> Verdict:
        """Read some at a time, and decode each into its slot."""
        verdict = Verdict()
        with self._arenas.borrowed() as arena:
            for first in range(0, len(reads), self._batch):
                batch = reads[first : first + self._batch]
                keys, cells = [read.entry.key for read in batch], arena.cells[: len(batch)]
                lengths = calls.get(keys, cells)
                for read, cell, length in zip(batch, cells, lengths, strict=True):

                    def decode(read: Read, length: int, cell: memoryview = cell) -> None:
                        self.decoder.decode(read, cell[:length], arena.spare, namespace)

                    verdict.note(read, length, decode)
        return verdict

    def close(self) -> None:
        """Close the serdes."""
        self.decoder.close()
