"""Making of a raw frame the one that a chain of serdes encodes it to."""

from __future__ import annotations

import secrets

import xxhash

from lmcache_core.api.frames import HEADER_BYTES
from lmcache_core.engine.frames.encoding import Encoding
from lmcache_core.engine.frames.header import FrameHeader
from lmcache_core.engine.frames.serde_chain import SerdeChain
from lmcache_core.errors import SerdeError
from lmcache_core.memory.copying import copy_bytes


def encode_frame(chain: SerdeChain, frame: memoryview, out: memoryview) -> memoryview:
    """Encode a frame.

    Args:
        chain: The serdes; none for a raw frame.
        frame: The frame, raw and sealed.
        out: Where the other one goes.

    Returns:
        The part of ``out`` that it takes.

    Raises:
        SerdeError: A serde cannot encode it, or it does not fit.
        FrameError: A header cannot describe it.
    """
    header = FrameHeader.parse(frame)
    stages, data = chain.encode(header.binding, frame[HEADER_BYTES:])
    nbytes = HEADER_BYTES + len(data)
    if nbytes > len(out):
        message = (
            f"a payload of {header.raw_bytes} bytes is {len(data)} encoded; at most "
            f"{len(out) - HEADER_BYTES} are stored"
        )
        raise SerdeError(message)
    if stages:
        header = header._replace(
            stored_bytes=len(data),
            payload_check=xxhash.xxh3_64_intdigest(data),
            encoding=Encoding(header.payload_check, tuple(stages)),
        )
    out[:HEADER_BYTES] = header._replace(frame_id=secrets.token_bytes(16)).pack()
    copy_bytes(out[HEADER_BYTES:nbytes], data)
    return out[:nbytes]
