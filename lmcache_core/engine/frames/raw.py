"""Frames that lie in a store exactly as they lie in a slot."""

from __future__ import annotations

from collections.abc import Sequence

from lmcache_core.engine.frames.calls import BackendCalls
from lmcache_core.engine.frames.decoder import Arenas, Decoder
from lmcache_core.engine.frames.frame import ForeignFrameError, FrameSeal
from lmcache_core.engine.frames.reading import Read, Verdict
from lmcache_core.engine.frames.sealer import Sealing
from lmcache_core.errors import FrameError
from lmcache_core.keys import Key
from lmcache_core.memory.copying import copy_bytes


class RawFrames:
    """The form of a tier without serdes: read and written in place, never copied.

    What was encoded all the same is copied out of its slot and decoded into
    it, or read once more where it is longer than the slot.

    Args:
        seal: Verifies frames.
        decoder: Decodes frames; closed with it.
        readers: Threads that may read at once.
    """

    encoded = False

    def __init__(self, seal: FrameSeal, decoder: Decoder, *, readers: int) -> None:
        self.decoder = decoder
        self._seal = seal
        self._arenas = Arenas(readers, 1, decoder.longest_bytes)

    def longest(self, read: Read) -> int:
        """As long as what is known of it."""
        return len(read.frame)

    def outgoing(self, sealing: Sealing) -> memoryview:
        """The slot itself, sealed."""
        sealing.seal()
        return sealing.frame

    def incoming(self, reads: Sequence[Read], calls: BackendCalls, namespace: bytes) -> Verdict:
        """Read all in one call, straight into the slots."""
        lengths = calls.get([read.entry.key for read in reads], [read.frame for read in reads])
        longer = self._longer([r for r, n in zip(reads, lengths, strict=True) if n is None], calls)
        verdict = Verdict()
        for read, length in zip(reads, lengths, strict=True):
            if read.entry.key in longer:
                self._read_apart(read, calls, namespace, verdict)
            else:
                verdict.note(read, length, lambda read, n: self._verify(read, n, namespace))
        return verdict

    def _longer(self, missed: Sequence[Read], calls: BackendCalls) -> set[Key]:
        """Which of the frames are there and too long for their slots, as encoded ones may be."""
        keys = [read.entry.key for read in missed]
        lengths = calls.stat(keys) if keys else []
        return {
            read.entry.key
            for read, length in zip(missed, lengths, strict=True)
            if length is not None and len(read.frame) < length <= self.decoder.longest_bytes
        }

    def _read_apart(
        self, read: Read, calls: BackendCalls, namespace: bytes, verdict: Verdict
    ) -> None:
        with self._arenas.borrowed() as arena:
            (cell,) = arena.cells
            (length,) = calls.get([read.entry.key], [cell])
            verdict.note(
                read,
                length,
                lambda read, n: self.decoder.decode(read, cell[:n], arena.spare, namespace),
            )

    def _verify(self, read: Read, length: int, namespace: bytes) -> None:
        try:
            self._seal.verify(read.entry, read.frame[:length], namespace)
        except ForeignFrameError:
            with self._arenas.borrowed() as arena:
                stored = arena.cells[0][:length]
                copy_bytes(stored, read.frame[:length])
                self.decoder.decode(read, stored, arena.spare, namespace)
            return
        if length != len(read.frame):
            raise FrameError(f"frame of {length} bytes, expected {len(read.frame)}")

    def close(self) -> None:
        """Close the serdes that were needed."""
        self.decoder.close()
