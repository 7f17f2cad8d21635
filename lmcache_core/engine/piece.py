"""A token sequence cut at chunks, and what covers each piece of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from lmcache_core.keys import TOKEN_BYTES, Key, KeyChain


class Piece(NamedTuple):
    """One chunk's worth of a pinned sequence, the last maybe short."""

    key: Key
    parent: Key
    token_bytes: bytes


class Cover(NamedTuple):
    """The entry that covers a piece, and for how many of its tokens."""

    key: Key
    tokens: int


def piece_at(chain: KeyChain, index: int, tokens: int) -> Piece:
    """The first ``tokens`` tokens of chunk ``index``."""
    return Piece(chain.key(index, tokens), chain.parent(index), chain.token_bytes(index, tokens))


class Pieces:
    """A whole sequence cut at chunks; pieces are made when they are looked at.

    A pin lives long, and only keys and one copy of its tokens are kept for it.

    Args:
        chain: The sequence.
        token_bytes: Its packed token ids, which are kept and not copied.
    """

    __slots__ = ("_keys", "_root", "_size", "_token_bytes")

    def __init__(self, chain: KeyChain, token_bytes: bytes) -> None:
        self._root = chain.root
        self._size = chain.chunk_size * TOKEN_BYTES
        self._token_bytes = token_bytes
        tail = len(chain) % chain.chunk_size
        whole = tuple(chain.keys)
        self._keys = (*whole, chain.key(len(whole), tail)) if tail else whole

    def __len__(self) -> int:
        """Number of pieces."""
        return len(self._keys)

    def __getitem__(self, number: int) -> Piece:
        """The piece of a number."""
        start = number * self._size
        parent = self._keys[number - 1] if number else self._root
        return Piece(self._keys[number], parent, self._token_bytes[start : start + self._size])

    def __iter__(self) -> Iterator[Piece]:
        """The pieces in order."""
        return (self[number] for number in range(len(self._keys)))

    def number_of(self, key: Key) -> int:
        """The number of the piece of a key that is one of them."""
        return self._keys.index(key)
