"""The header page of a chunk, and how a frame proves that it is whole.

A frame is a 4096-byte header and the payload behind it, in one run, exactly
as it lies in a slot of the pool, so that a store reads and writes it in
place. Numbers are little-endian. The layout of version 1, by offset:

==== ===== =====================================================
  0    8   magic ``LMCFRAM1``
  8    4   format version, 1
 12    4   header bytes, 4096
 16    8   payload bytes
 24    4   valid tokens
 28    4   blocks in the payload
 32   32   key
 64   32   key of the parent
 96   32   digest of the namespace
128   16   frame id, random
144    8   xxh3-64 of the payload
152    8   xxh3-64 of bytes 0 to 152 and of the rest from 160 on
160    -   zeros
==== ===== =====================================================
"""

from __future__ import annotations

import secrets
import struct
import threading

import xxhash

from lmcache_core.engine.entry import Entry
from lmcache_core.errors import FrameError

HEADER_BYTES = 4096
_MAGIC = b"LMCFRAM1"
_VERSION = 1
_FIELDS = struct.Struct("<8sIIQII32s32s32s16sQ")
_CHECK = struct.Struct("<Q")
_CHECK_AT = _FIELDS.size
_REST_AT = _CHECK_AT + _CHECK.size


class FrameSeal:
    """Writes and verifies headers, each for the namespace its chunk is of.

    Args:
        namespace: Digest of the engine's namespace.

    Attributes:
        namespace: The digest of the present epoch; what is asked of a store
            is bound to the one it was asked under.
    """

    def __init__(self, namespace: bytes) -> None:
        self.namespace = namespace
        # Two tiers may write the same slot through at once; the header page
        # must be written by one of them, before either reads it.
        self._lock = threading.Lock()

    def ensure(self, entry: Entry, frame: memoryview, namespace: bytes) -> None:
        """Fill the header page of a frame whose payload is in place, once."""
        with self._lock:
            if not entry.sealed:
                self._write(entry, frame, namespace)
                entry.sealed = True

    def _write(self, entry: Entry, frame: memoryview, namespace: bytes) -> None:
        payload = frame[HEADER_BYTES:]
        frame[_CHECK_AT:HEADER_BYTES] = bytes(HEADER_BYTES - _CHECK_AT)
        _FIELDS.pack_into(
            frame,
            0,
            _MAGIC,
            _VERSION,
            HEADER_BYTES,
            len(payload),
            entry.tokens,
            entry.blocks,
            entry.key,
            entry.parent,
            namespace,
            secrets.token_bytes(16),
            xxhash.xxh3_64_intdigest(payload),
        )
        _CHECK.pack_into(frame, _CHECK_AT, _header_check(frame))

    def verify(self, entry: Entry, frame: memoryview, namespace: bytes) -> None:
        """Check every byte of a frame against the entry it is to become.

        Raises:
            FrameError: It is damaged, another chunk's, or another namespace's.
        """
        magic, version, header_bytes, length, *rest = _FIELDS.unpack_from(frame, 0)
        if magic != _MAGIC or version != _VERSION or header_bytes != HEADER_BYTES:
            message = f"not a frame of version {_VERSION}: magic {magic!r}, version {version}"
            raise FrameError(message)
        (stored,) = _CHECK.unpack_from(frame, _CHECK_AT)
        if stored != _header_check(frame):
            raise FrameError("the checksum of the header does not match")
        payload = frame[HEADER_BYTES:]
        expected = {
            "payload bytes": len(payload),
            "tokens": entry.tokens,
            "blocks": entry.blocks,
            "key": entry.key,
            "parent": entry.parent,
            "namespace": namespace,
        }
        for (name, want), have in zip(expected.items(), (length, *rest[:5]), strict=True):
            if want != have:
                message = f"the frame's {name} is {_show(have)}, expected {_show(want)}"
                raise FrameError(message)
        if rest[6] != xxhash.xxh3_64_intdigest(payload):
            raise FrameError("the checksum of the payload does not match")
        entry.sealed = True


def _header_check(frame: memoryview) -> int:
    digest = xxhash.xxh3_64(frame[:_CHECK_AT])
    digest.update(frame[_REST_AT:HEADER_BYTES])
    return digest.intdigest()


def _show(value: object) -> str:
    return value.hex()[:16] if isinstance(value, bytes) else str(value)
