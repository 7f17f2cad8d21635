"""Frames as the core makes them, of chunks that nobody computes."""

from __future__ import annotations

import functools
import random

import xxhash

from lmcache_core.api.frames import HEADER_BYTES, FrameEnvelope
from lmcache_core.testing.material import aligned_buffer, sample_key

PAYLOADS = (1, 100, 4096, 5000, 12_288, 20_000)
LONGEST = HEADER_BYTES + max(PAYLOADS)


VERSIONS = (0, 1)
"""Of each frame: what is put, and what takes its place."""


def whole_frame(number: int, version: int = 0) -> memoryview:
    """The frame of ``sample_key(number)``, in a buffer as the core has it."""
    content = frame_bytes(number, version)
    view = aligned_buffer(len(content))
    view[:] = content
    return view


def version_of(number: int, content: bytes) -> int | None:
    """Which version some bytes are, whole; None for none."""
    found = (version for version in VERSIONS if content == frame_bytes(number, version))
    return next(found, None)


@functools.lru_cache(maxsize=256)
def frame_bytes(number: int, version: int = 0) -> bytes:
    """Its bytes, header and payload."""
    rng = random.Random(number + (version << 32))
    payload = rng.randbytes(PAYLOADS[(number + version) % len(PAYLOADS)])
    envelope = FrameEnvelope(
        raw_bytes=len(payload),
        stored_bytes=len(payload),
        tokens=16,
        groups=0,
        encoding_bytes=0,
        key=sample_key(number),
        parent=bytes(32),
        namespace=bytes(32),
        frame_id=rng.randbytes(16),
        payload_check=xxhash.xxh3_64_intdigest(payload),
    )
    return envelope.pack(b"") + payload
