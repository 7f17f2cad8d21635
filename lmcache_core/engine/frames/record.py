"""What a store keeps for its engine beside chunks: records, each in a frame of its own.

A record has the header of every frame, so that whoever verifies frames verifies
records too, with no tokens and no page map. Its key begins with bytes that no
chunk's key is going to begin with, followed by some that tell the engine's
instance from others:

==== ===== =========================================================
  0    8   SHA-256 of ``lmcache:record:1`` and a zero byte, cut
  8    8   SHA-256 of the instance's id, cut
 16   16   random
==== ===== =========================================================

The payload is a MessagePack array of name, stamp, instance id and body.
"""

from __future__ import annotations

import hashlib
import mmap
import secrets

import msgspec
import xxhash

from lmcache_core.api.frames import HEADER_BYTES, RECORD_MARK, FrameEnvelope
from lmcache_core.errors import FrameError
from lmcache_core.keys import KEY_BYTES, Key

_INSTANCE_BYTES = 8

LONGEST_BYTES = 64 << 20
"""Length of a record's frame at most; what is longer is not read."""


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One record.

    Attributes:
        name: What it is about; of several of one name the latest counts.
        stamp: Unix time in nanoseconds at which it was written, above that of
            every record of its store that was there before.
        instance_id: Whose it is.
        body: What it says.
    """

    name: str
    stamp: int
    instance_id: str
    body: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


def is_records_of(key: Key, instance_id: str) -> bool:
    """Whether a key is that of a record of an instance."""
    return key.startswith(_prefix(instance_id))


def new_key(instance_id: str) -> Key:
    """A key for another record of an instance."""
    prefix = _prefix(instance_id)
    return prefix + secrets.token_bytes(KEY_BYTES - len(prefix))


def pack(record: Record, key: Key, namespace: bytes) -> memoryview:
    """The frame of a record, in memory of its own that is aligned as backends are promised.

    Args:
        record: What is to be kept.
        key: The frame's key.
        namespace: Digest of the engine's namespace.
    """
    payload = _encoder.encode(record)
    header = FrameEnvelope(
        raw_bytes=len(payload),
        stored_bytes=len(payload),
        tokens=0,
        groups=0,
        encoding_bytes=0,
        key=key,
        parent=bytes(KEY_BYTES),
        namespace=namespace,
        frame_id=secrets.token_bytes(16),
        payload_check=xxhash.xxh3_64_intdigest(payload),
    ).pack(b"")
    frame = memoryview(mmap.mmap(-1, HEADER_BYTES + len(payload)))
    frame[:HEADER_BYTES] = header
    frame[HEADER_BYTES:] = payload
    return frame


def parse(frame: memoryview, key: Key) -> Record:
    """Read the frame of a record.

    Raises:
        FrameError: It is damaged, another key's, or no record.
    """
    envelope, _ = FrameEnvelope.parse(frame[:HEADER_BYTES])
    payload = frame[HEADER_BYTES:]
    if envelope.key != key:
        raise FrameError(f"it is the frame of another key, {envelope.key.hex()}")
    if envelope.stored_bytes != len(payload):
        raise FrameError(f"the payload has {len(payload)} bytes, not {envelope.stored_bytes}")
    if envelope.payload_check != xxhash.xxh3_64_intdigest(payload):
        raise FrameError("the checksum of the payload does not match")
    try:
        return _decoder.decode(payload)
    except msgspec.DecodeError as error:
        raise FrameError(f"the payload is no record: {error}") from error


def _prefix(instance_id: str) -> bytes:
    return RECORD_MARK + hashlib.sha256(instance_id.encode()).digest()[:_INSTANCE_BYTES]
