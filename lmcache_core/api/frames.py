"""What whoever keeps frames can tell of one: whose it is, and whether it is whole.

The rest of a header, the page map and what serdes have done, is the engine's.
The whole layout is in ``docs/reference/frames.md``.
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

import xxhash

from lmcache_core.errors import FrameError

HEADER_BYTES = 4096
"""Length of the header, which the payload follows."""

MAGIC = b"LMCFRAM1"
VERSION = 2

RECORD_MARK = hashlib.sha256(b"lmcache:record:1\0").digest()[:8]
"""What the key begins with of a frame that is no chunk: the engine keeps a record in it."""

_FIELDS = struct.Struct("<8sIIQQIHH32s32s32s16sQ")
_CHECK = struct.Struct("<Q")
_CHECK_AT = _FIELDS.size
_REST_AT = _CHECK_AT + _CHECK.size

REST_BYTES = HEADER_BYTES - _REST_AT
"""Room in a header behind the fields that are the same in every frame."""


def is_record(key: bytes) -> bool:
    """Whether a key is that of a record and no chunk's, so that it is not to be evicted."""
    return key.startswith(RECORD_MARK)


class FrameEnvelope(NamedTuple):
    """The fields that every header has, in order.

    Attributes:
        raw_bytes: Length of the payload before any serde.
        stored_bytes: Length of the payload as it is stored.
        tokens: Tokens whose KV is valid.
        groups: KV groups in the page map.
        encoding_bytes: Length of what says what serdes have done.
        key: The chunk's key.
        parent: Key of the chunk before it, or the chain's root.
        namespace: Digest of the namespace.
        frame_id: Tells two frames of one key apart.
        payload_check: xxh3-64 of the stored payload.
    """

    raw_bytes: int
    stored_bytes: int
    tokens: int
    groups: int
    encoding_bytes: int
    key: bytes
    parent: bytes
    namespace: bytes
    frame_id: bytes
    payload_check: int

    def pack(self, rest: bytes) -> bytes:
        """The header page.

        Args:
            rest: What is the engine's of it, :data:`REST_BYTES` at most.
        """
        fields = _FIELDS.pack(MAGIC, VERSION, HEADER_BYTES, *self)
        rest = rest.ljust(REST_BYTES, b"\0")
        return fields + _CHECK.pack(_check(fields, rest)) + rest

    @classmethod
    def parse(cls, page: memoryview) -> tuple[FrameEnvelope, bytes]:
        """Read a header page whose checksum is right, and the rest of it.

        Raises:
            FrameError: It is none, of another version, or damaged.
        """
        if len(page) < HEADER_BYTES:
            raise FrameError(f"a header has {HEADER_BYTES} bytes, and there are {len(page)}")
        magic, version, header_bytes, *fields = _FIELDS.unpack_from(page)
        if magic != MAGIC or version != VERSION or header_bytes != HEADER_BYTES:
            message = f"not a frame of version {VERSION}: magic {magic!r}, version {version}"
            raise FrameError(message)
        rest = bytes(page[_REST_AT:HEADER_BYTES])
        if _CHECK.unpack_from(page, _CHECK_AT) != (_check(page[:_CHECK_AT], rest),):
            raise FrameError("the checksum of the header does not match")
        return cls(*fields), rest


def _check(fields: bytes | memoryview, rest: bytes) -> int:
    digest = xxhash.xxh3_64(fields)
    digest.update(rest)
    return digest.intdigest()
