"""The chain of chunk keys over a token sequence.

``root = SHA-256("lmcache:root:1" NUL, namespace digest, scope digest)``;
``key = SHA-256(parent key, token ids as little-endian uint32)``. The parent
of the first chunk is the root, of every other chunk the key before it. The
last chunk may be short (a tail) and is hashed at its true length.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Sequence

from lmcache_core.errors import LMCacheError

Key = bytes
"""A chunk's name: 32 bytes."""

KEY_BYTES = 32
TOKEN_BYTES = 4
MAX_TOKEN_ID = 2**32 - 1


class TokenRangeError(LMCacheError):
    """A token id is no unsigned 32-bit integer."""


def tokens_to_bytes(tokens: Sequence[int]) -> bytes:
    """Pack token ids as little-endian uint32.

    Raises:
        TokenRangeError: An id is negative, above 2**32 - 1, or no integer.
    """
    try:
        packed = array("I", tokens)
    except (OverflowError, TypeError) as error:
        values: Sequence[object] = tokens
        bad = next((t for t in values if not (isinstance(t, int) and 0 <= t <= MAX_TOKEN_ID)), None)
        message = f"token id {bad!r} is not an integer from 0 to {MAX_TOKEN_ID}"
        raise TokenRangeError(message) from error
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def chunk_key(parent: Key, token_bytes: bytes | memoryview) -> Key:
    """The key of a chunk from its parent's key and its packed token ids."""
    digest = hashlib.sha256(parent)
    digest.update(token_bytes)
    return digest.digest()


class KeyChain:
    """Keys of one token sequence, computed once and extended as it grows.

    Args:
        root: Key that seeds the chain; see :meth:`seed`.
        chunk_size: Tokens in a whole chunk.

    Attributes:
        root: The seed.
        chunk_size: Tokens in a whole chunk.
        keys: Keys of the whole chunks so far.
    """

    __slots__ = ("_bytes", "chunk_size", "keys", "root")

    def __init__(self, root: Key, chunk_size: int) -> None:
        self.root = root
        self.chunk_size = chunk_size
        self.keys: list[Key] = []
        self._bytes = bytearray()

    @staticmethod
    def seed(namespace_digest: bytes, scope_digest: bytes) -> Key:
        """The parent of every first chunk of a namespace and scope."""
        return hashlib.sha256(b"lmcache:root:1\0" + namespace_digest + scope_digest).digest()

    def __len__(self) -> int:
        """Number of tokens in the sequence."""
        return len(self._bytes) // TOKEN_BYTES

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens and compute the keys of the chunks that fill.

        Raises:
            TokenRangeError: An id is no unsigned 32-bit integer.
        """
        self.extend_bytes(tokens_to_bytes(tokens))

    def extend_bytes(self, token_bytes: bytes) -> None:
        """Append packed tokens; see :func:`tokens_to_bytes`."""
        self._bytes += token_bytes
        size = self.chunk_size * TOKEN_BYTES
        keys = self.keys
        parent = self.parent(len(keys))
        for start in range(len(keys) * size, len(self._bytes) - size + 1, size):
            # chunk_key, written out: a long prompt has hundreds.
            parent = hashlib.sha256(parent + self._bytes[start : start + size]).digest()
            keys.append(parent)

    def parent(self, index: int) -> Key:
        """Key of the chunk before chunk ``index``, or the root."""
        return self.keys[index - 1] if index else self.root

    def token_bytes(self, index: int, length: int | None = None) -> bytes:
        """Packed token ids of chunk ``index``.

        Args:
            index: Number of the chunk.
            length: Tokens wanted from its start; what is there by default.
        """
        start = index * self.chunk_size * TOKEN_BYTES
        size = (self.chunk_size if length is None else length) * TOKEN_BYTES
        return bytes(self._bytes[start : start + size])

    def all_bytes(self) -> bytes:
        """Packed token ids of the whole sequence."""
        return bytes(self._bytes)

    def key(self, index: int, length: int) -> Key:
        """Key of the first ``length`` tokens of chunk ``index``."""
        if length == self.chunk_size:
            return self.keys[index]
        return chunk_key(self.parent(index), self.token_bytes(index, length))
