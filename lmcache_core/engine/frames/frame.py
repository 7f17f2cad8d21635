"""How a frame proves which chunk it is, and that it is whole.

A frame is a header page and the payload behind it, in one run. In a slot of
the pool the payload is raw; a store has it so too, or encoded by serdes.
"""

from __future__ import annotations

import secrets
import threading

import xxhash

from lmcache_core.api.frames import HEADER_BYTES
from lmcache_core.engine.chunks.entry import Carried, Entry
from lmcache_core.engine.chunks.geometry import Geometry
from lmcache_core.engine.chunks.pages import Pages
from lmcache_core.engine.frames.header import FrameHeader
from lmcache_core.errors import FrameError


class ForeignFrameError(FrameError):
    """A frame is whole and this chunk's, and in a form that its tier does not read."""


class FrameSeal:
    """Writes and verifies headers, each for the namespace its chunk is of.

    Args:
        namespace: Digest of the engine's namespace.
        geometry: What pages a chunk has.

    Attributes:
        namespace: The digest of the present epoch; what is asked of a store
            is bound to the one it was asked under.
    """

    def __init__(self, namespace: bytes, geometry: Geometry) -> None:
        self.namespace = namespace
        self._geometry = geometry
        # Two tiers may write the same slot through at once; the header page
        # must be written by one of them, before either reads it.
        self._lock = threading.Lock()

    def ensure(self, entry: Entry, frame: memoryview, namespace: bytes) -> None:
        """Fill the header page of a frame whose payload is in place, once."""
        if entry.sealed:
            return
        with self._lock:
            if not entry.sealed:
                self._write(entry, frame, namespace)
                entry.sealed = True

    def _write(self, entry: Entry, frame: memoryview, namespace: bytes) -> None:
        payload = frame[HEADER_BYTES:]
        counts = self._geometry.blocks(entry.tokens)
        header = FrameHeader(
            raw_bytes=len(payload),
            stored_bytes=len(payload),
            tokens=entry.tokens,
            key=entry.key,
            parent=entry.parent,
            namespace=namespace,
            frame_id=secrets.token_bytes(16),
            payload_check=xxhash.xxh3_64_intdigest(payload),
            counts=counts,
            pages=entry.pages or _all(counts),
        )
        frame[:HEADER_BYTES] = header.pack()

    def check(self, entry: Entry, header: FrameHeader, namespace: bytes) -> Pages:
        """Compare what a header says with the entry its chunk is to become.

        Returns:
            Which of its pages are there.

        Raises:
            FrameError: It is another chunk's, or another namespace's.
        """
        _expect("key", header.key, entry.key)
        if isinstance(entry, Carried):
            # Whoever asks for it by its tokens compares the rest.
            entry.learn(header.parent, header.tokens)
        counts = self._geometry.blocks(entry.tokens)
        _expect("parent", header.parent, entry.parent)
        _expect("namespace", header.namespace, namespace)
        _expect("tokens", header.tokens, entry.tokens)
        _expect("pages", header.counts, counts)
        pages = None if header.pages == _all(counts) else header.pages
        raw_bytes = self._geometry.payload_bytes(entry.tokens, pages)
        _expect("raw bytes", header.raw_bytes, raw_bytes)
        return pages

    def verify(self, entry: Entry, frame: memoryview, namespace: bytes) -> None:
        """Check every byte of a raw frame against the entry it is to become.

        Which of its pages are there, the entry learns from the frame.

        Raises:
            FrameError: It is damaged, another chunk's, or another namespace's.
            ForeignFrameError: It is not raw.
        """
        header = FrameHeader.parse(frame)
        pages = self.check(entry, header, namespace)
        if header.encoding is not None:
            raise ForeignFrameError(f"the frame was encoded by {', '.join(header.serdes)}")
        check_payload(header, frame[HEADER_BYTES:])
        _expect("payload bytes", header.stored_bytes, header.raw_bytes)
        entry.pages = pages
        entry.sealed = True


def check_payload(header: FrameHeader, payload: memoryview) -> None:
    """Check a payload as it was stored against its header.

    Raises:
        FrameError: It has another length or other bytes.
    """
    _expect("payload bytes", header.stored_bytes, len(payload))
    if header.payload_check != xxhash.xxh3_64_intdigest(payload):
        raise FrameError("the checksum of the payload does not match")


def _all(counts: tuple[int, ...]) -> tuple[int, ...]:
    return tuple((1 << count) - 1 for count in counts)


def _expect(name: str, have: object, want: object) -> None:
    if have != want:
        raise FrameError(f"the frame's {name} is {_show(have)}, expected {_show(want)}")


def _show(value: object) -> str:
    return value.hex()[:16] if isinstance(value, bytes) else str(value)
