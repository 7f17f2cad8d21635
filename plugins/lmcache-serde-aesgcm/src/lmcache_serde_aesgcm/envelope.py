"""What stands before an encrypted payload, and what is authenticated with it."""

from __future__ import annotations

from typing import NamedTuple

from lmcache_core.errors import SerdeError
from lmcache_core.keys import Key
from lmcache_serde_aesgcm.config import MAX_ID

VERSION = 1
NONCE_BYTES = 12
TAG_BYTES = 16
ID_OFFSET = 2
LEAST_BYTES = ID_OFFSET + 1 + NONCE_BYTES + TAG_BYTES


class Envelope(NamedTuple):
    """The parts of an encoded payload.

    Attributes:
        opening: Version, length of the id and id; authenticated, not hidden.
        key_id: Id of the key.
        nonce: What the payload was encrypted with beside the key.
        sealed: Ciphertext and tag.
    """

    opening: bytes
    key_id: str
    nonce: bytes
    sealed: memoryview


def opening_of(key_id: str) -> bytes:
    """The first bytes of what a key encrypts."""
    name = key_id.encode("ascii")
    return bytes((VERSION, len(name))) + name


def associated(opening: bytes, key: Key) -> bytes:
    """What is authenticated beside the payload."""
    return opening + key


def parse(stored: memoryview) -> Envelope:
    """Take an encoded payload apart.

    Raises:
        SerdeError: It is none.
    """
    if stored.nbytes < LEAST_BYTES or stored[0] != VERSION or not 1 <= stored[1] <= MAX_ID:
        raise SerdeError(f"{stored.nbytes} bytes do not begin like what aesgcm has encoded")
    end = ID_OFFSET + stored[1]
    if stored.nbytes < end + NONCE_BYTES + TAG_BYTES:
        raise SerdeError(f"{stored.nbytes} bytes are too few for what aesgcm has encoded")
    opening = bytes(stored[:end])
    return Envelope(
        opening,
        opening[ID_OFFSET:].decode("latin-1"),
        bytes(stored[end : end + NONCE_BYTES]),
        stored[end + NONCE_BYTES :],
    )
