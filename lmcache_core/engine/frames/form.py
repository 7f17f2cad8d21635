"""In which form a tier's store has frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lmcache_core.engine.frames.calls import BackendCalls
from lmcache_core.engine.frames.decoder import Decoder
from lmcache_core.engine.frames.reading import Read, Verdict
from lmcache_core.engine.frames.sealer import Sealing


class FrameForm(Protocol):
    """Makes what is stored of a frame in a slot, and a frame in a slot of what was stored."""

    @property
    def encoded(self) -> bool:
        """Whether the length of a stored frame tells nothing of its chunk."""

    @property
    def decoder(self) -> Decoder:
        """Decodes a frame that was stored in any form."""

    def longest(self, read: Read) -> int:
        """Length above which a stored frame cannot be what is to be read."""

    def outgoing(self, sealing: Sealing) -> memoryview:
        """What is to be stored, until the next call; from one thread at a time.

        Raises:
            FrameError: A header cannot describe the frame.
            SerdeError: A serde cannot encode it.
        """

    def incoming(self, reads: Sequence[Read], calls: BackendCalls, namespace: bytes) -> Verdict:
        """Read frames into their slots and verify every byte; from any thread.

        Args:
            reads: What to read.
            calls: The store.
            namespace: What the frames have to be bound to.

        Raises:
            LMCacheError: The store did not answer.
        """

    def close(self) -> None:
        """Let go of everything; nothing is called afterwards."""
