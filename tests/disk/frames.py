"""Frames as the core makes them, of chunks that nobody computes."""

from __future__ import annotations

import functools
import random

import xxhash

from lmcache_core.api.frames import HEADER_BYTES, FrameEnvelope
from lmcache_core.testing.material import aligned_buffer, sample_key

PAYLOADS = (1, 100, 4096, 5000, 12_288, 20_000)
LONGEST = HEADER_BYTES + max(PAYLOADS)


def whole_frame(number: int) -> memoryview:
    """The frame of ``sample_key(number)``, in a buffer as the core has it."""
    content = frame_bytes(number)
    view = aligned_buffer(len(content))
    view[:] = content
    return view


@functools.lru_cache(maxsize=256)
def frame_bytes(number: int) -> bytes:
    """Its bytes, header and payload."""
    rng = random.Random(number)
    payload = rng.randbytes(PAYLOADS[number % len(PAYLOADS)])
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
