"""Writing the headers of frames ahead of the thread that writes the frames."""

from __future__ import annotations

import threading

from lmcache_core.engine.chunks.entry import Entry
from lmcache_core.engine.frames.frame import FrameSeal
from lmcache_core.engine.frames.workers import Workers
from lmcache_core.errors import FrameError


class Sealing:
    """One frame to be sealed, by whoever comes to it first, until its slot is given up.

    Args:
        seal: Writes headers.
        entry: The chunk.
        frame: Its slot.
        namespace: What the frame is bound to.

    Attributes:
        entry: See above.
        frame: See above.
    """

    def __init__(self, seal: FrameSeal, entry: Entry, frame: memoryview, namespace: bytes) -> None:
        self.entry = entry
        self.frame = frame
        self._seal = seal
        self._namespace = namespace
        self._lock = threading.Lock()
        self._over = False

    def seal(self) -> None:
        """Seal the frame, or wait until it is.

        Raises:
            FrameError: It cannot be described by a header.
        """
        with self._lock:
            if not self._over:
                self._seal.ensure(self.entry, self.frame, self._namespace)

    def end(self) -> None:
        """The slot is no longer ours; from now on it is not touched."""
        with self._lock:
            self._over = True


class Sealer:
    """Sums up frames while the ones before them are on their way to the store.

    A checksum takes a tenth of the time that a disk takes for the same bytes.

    Args:
        tier: The tier's name, for the thread's.
    """

    def __init__(self, tier: str) -> None:
        self._workers = Workers(f"lmcache-{tier}-seal")

    def start(self) -> None:
        """Start the thread."""
        self._workers.start()

    def ahead(self, sealing: Sealing) -> None:
        """Seal a frame when there is time; who needs it first seals it himself."""

        def try_it() -> None:
            try:
                sealing.seal()
            except FrameError:
                return  # Who writes it comes upon the same and says so.

        self._workers.submit(try_it)

    def close(self) -> bool:
        """Stop the thread; False where it is still busy."""
        return self._workers.close()
