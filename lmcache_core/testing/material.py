"""Keys, frames and buffers for the checks."""

from __future__ import annotations

import functools
import hashlib
import mmap
import random

from lmcache_core.keys import Key


def sample_key(number: int) -> Key:
    """A key as the core makes them: 32 bytes of a digest."""
    return hashlib.sha256(b"lmcache-kit" + number.to_bytes(8, "little")).digest()


def sample_frame(number: int, nbytes: int) -> memoryview:
    """Bytes that differ from frame to frame, in a buffer as the core makes them."""
    view = aligned_buffer(nbytes)
    view[:] = _sample(number, nbytes)
    return view


@functools.lru_cache(maxsize=64)
def _sample(number: int, nbytes: int) -> bytes:
    return random.Random(number).randbytes(nbytes)


def aligned_buffer(nbytes: int) -> memoryview:
    """A writable buffer that starts on a page boundary."""
    return memoryview(mmap.mmap(-1, nbytes))


def aligned_buffers(count: int, nbytes: int) -> list[memoryview]:
    """As many of them, out of one mapping; ``nbytes`` is a page at most."""
    region = aligned_buffer(count * mmap.PAGESIZE)
    return [region[start : start + nbytes] for start in range(0, len(region), mmap.PAGESIZE)]
