"""What a Zstandard frame says of itself, checked before anything is decompressed."""

from __future__ import annotations

import zstandard

from lmcache_core.errors import SerdeError

BLOCK_HEADER_BYTES = 3
CHECKSUM_BYTES = 4
RLE_BLOCK = 1
RESERVED_BLOCK = 3

LEAST_BLOCK_BYTES = 256
"""Blocks of ours are longer on average; more of them are somebody's trap."""

LEAST_WINDOW_BYTES = 1 << 10


def check_layout(stored: memoryview, payload_bytes: int) -> None:
    """Check that some bytes are one whole frame of a payload of known length.

    So a bomb is refused before memory is spent on it, and a frame that was
    cut inside its checksum is not taken for one that has none.

    Args:
        stored: The bytes.
        payload_bytes: The length of the payload.

    Raises:
        SerdeError: They are not.
        zstandard.ZstdError: They do not begin like a frame.
    """
    says = zstandard.get_frame_parameters(stored)
    if says.content_size != payload_bytes:
        raise SerdeError(
            f"the zstd frame is of {says.content_size} bytes, and {payload_bytes} are wanted"
        )
    if not says.has_checksum or says.dict_id:
        raise SerdeError("the zstd frame has no checksum or needs a dictionary; it is not ours")
    if says.window_size > max(payload_bytes, LEAST_WINDOW_BYTES):
        raise SerdeError(
            f"the zstd frame wants a window of {says.window_size} bytes for {payload_bytes}"
        )
    length = _frame_bytes(stored, payload_bytes)
    if length != stored.nbytes:
        raise SerdeError(f"the zstd frame has {length or 'more'} bytes, and {stored.nbytes} came")


def _frame_bytes(stored: memoryview, payload_bytes: int) -> int | None:
    """Length of a frame by the lengths of its blocks; None where it goes on past the end."""
    at = zstandard.frame_header_size(stored)
    for _ in range(payload_bytes // LEAST_BLOCK_BYTES + 2):
        if at + BLOCK_HEADER_BYTES > stored.nbytes:
            return None
        header = int.from_bytes(stored[at : at + BLOCK_HEADER_BYTES], "little")
        last, kind, nbytes = header & 1, header >> 1 & 3, header >> 3
        if kind == RESERVED_BLOCK:
            raise SerdeError("the zstd frame has a block of a reserved kind")
        at += BLOCK_HEADER_BYTES + (1 if kind == RLE_BLOCK else nbytes)
        if last:
            return at + CHECKSUM_BYTES
    raise SerdeError("the zstd frame has more blocks than its length asks for")
