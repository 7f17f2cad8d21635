"""The header page of a frame: what it says of the chunk behind it.

Numbers are little-endian. The layout of version 2, by offset:

==== ===== =========================================================
  0    8   magic ``LMCFRAM1``
  8    4   format version, 2
 12    4   header bytes, 4096
 16    8   raw payload bytes, before any serde
 24    8   stored payload bytes, as they lie behind the header
 32    4   valid tokens
 36    2   number of KV groups
 38    2   bytes of the serde chain, 0 where the payload is raw
 40   32   key
 72   32   key of the parent
104   32   digest of the namespace
136   16   frame id, random
152    8   xxh3-64 of the stored payload
160    8   xxh3-64 of bytes 0 to 160 and of the rest from 168 on
168    -   page map
  -    -   serde chain
  -    -   zeros
==== ===== =========================================================

The page map has, for each KV group in order, the number of pages of a chunk
of so many tokens in 4 bytes, and behind it a bit for each page in whole bytes,
the first page lowest. A page whose bit is 0 was not there when the chunk was
stored and takes no room in the payload. The raw payload holds the groups in
order, and in each group, rank by rank and layer by layer, the pages that are
there.

The serde chain says what was done to the payload, see
:mod:`lmcache_core.engine.frames.encoding`; the header itself is never encoded.
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

from lmcache_core.api.frames import REST_BYTES, FrameEnvelope
from lmcache_core.engine.frames.encoding import Encoding
from lmcache_core.errors import FrameError

_PAGES = struct.Struct("<I")


class FrameHeader(NamedTuple):
    """The fields of a header, in order.

    Attributes:
        raw_bytes: Length of the payload before any serde.
        stored_bytes: Length of the payload as it is stored.
        tokens: Tokens whose KV is valid.
        key: The chunk's key.
        parent: Key of the chunk before it, or the chain's root.
        namespace: Digest of the namespace.
        frame_id: Tells two frames of one key apart.
        payload_check: xxh3-64 of the stored payload.
        counts: Per KV group, the pages of a chunk of so many tokens.
        pages: Per KV group, a bit for each page that is there.
        encoding: What was done to the payload; None where it is raw.
    """

    raw_bytes: int
    stored_bytes: int
    tokens: int
    key: bytes
    parent: bytes
    namespace: bytes
    frame_id: bytes
    payload_check: int
    counts: tuple[int, ...]
    pages: tuple[int, ...]
    encoding: Encoding | None = None

    @property
    def serdes(self) -> tuple[str, ...]:
        """Names of the serdes that encoded the payload, in order."""
        return () if self.encoding is None else tuple(s.serde for s in self.encoding.stages)

    @property
    def binding(self) -> bytes:
        """The 32 bytes that a serde is to bind the payload to.

        The chunk's key, which says all but which pages are there; where some
        are not, its digest with the page map, so that who can write to the
        store cannot change that either.
        """
        complete = all(
            bits == (1 << count) - 1 for count, bits in zip(self.counts, self.pages, strict=True)
        )
        return self.key if complete else hashlib.sha256(self.key + self._page_map()).digest()

    def pack(self) -> bytes:
        """The header page.

        Raises:
            FrameError: The page map is too long for it.
        """
        encoding = b"" if self.encoding is None else self.encoding.pack()
        rest = self._page_map() + encoding
        if len(rest) > REST_BYTES:
            message = f"the page map takes {len(rest)} bytes of a header, which has {REST_BYTES}"
            raise FrameError(message)
        return FrameEnvelope(
            raw_bytes=self.raw_bytes,
            stored_bytes=self.stored_bytes,
            tokens=self.tokens,
            groups=len(self.counts),
            encoding_bytes=len(encoding),
            key=self.key,
            parent=self.parent,
            namespace=self.namespace,
            frame_id=self.frame_id,
            payload_check=self.payload_check,
        ).pack(rest)

    @classmethod
    def parse(cls, page: memoryview) -> FrameHeader:
        """Read a header page whose checksum is right.

        Raises:
            FrameError: It is none, of another version, or damaged.
        """
        envelope, rest = FrameEnvelope.parse(page)
        counts, pages, at = [], [], 0
        for _ in range(envelope.groups):
            if at + _PAGES.size > len(rest):
                raise FrameError("the page map is longer than the header")
            (count,) = _PAGES.unpack_from(rest, at)
            at += _PAGES.size
            nbytes = -(-count // 8)
            bits = int.from_bytes(rest[at : at + nbytes], "little")
            if bits >> count:
                raise FrameError(f"the page map of a group has {count} pages and bits beyond")
            counts.append(count)
            pages.append(bits)
            at += nbytes
        if envelope.encoding_bytes > len(rest) - at:
            raise FrameError("the frame's serde chain is longer than its header")
        text = rest[at : at + envelope.encoding_bytes]
        return cls(
            raw_bytes=envelope.raw_bytes,
            stored_bytes=envelope.stored_bytes,
            tokens=envelope.tokens,
            key=envelope.key,
            parent=envelope.parent,
            namespace=envelope.namespace,
            frame_id=envelope.frame_id,
            payload_check=envelope.payload_check,
            counts=tuple(counts),
            pages=tuple(pages),
            encoding=Encoding.parse(text) if text else None,
        )

    def _page_map(self) -> bytes:
        return b"".join(
            _PAGES.pack(count) + bits.to_bytes(-(-count // 8), "little")
            for count, bits in zip(self.counts, self.pages, strict=True)
        )
