"""A token sequence cut at chunks, and what covers each piece of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from lmcache_core.keys import TOKEN_BYTES, Key, KeyChain, chunk_key


class Piece(NamedTuple):
    """One chunk's worth of a sequence, the last maybe short.

    Attributes:
        key: Its key.
        parent: Key of the piece before it, or the chain's root.
        token_bytes: Its packed token ids.
        number: How many pieces come before it.
    """

    key: Key
    parent: Key
    token_bytes: bytes
    number: int


class Cover(NamedTuple):
    """The entry that covers a piece, and for how many of its tokens."""

    key: Key
    tokens: int


def cut(covers: Iterable[Cover], tokens: int) -> list[Cover]:
    """What covers the first ``tokens`` tokens of what some entries cover."""
    kept = []
    for cover in covers:
        if tokens <= 0:
            break
        kept.append(Cover(cover.key, min(cover.tokens, tokens)))
        tokens -= cover.tokens
    return kept


def piece_at(chain: KeyChain, index: int, tokens: int) -> Piece:
    """The first ``tokens`` tokens of chunk ``index``."""
    parent, token_bytes = chain.parent(index), chain.token_bytes(index, tokens)
    whole = tokens == chain.chunk_size
    key = chain.keys[index] if whole else chunk_key(parent, token_bytes)
    return Piece(key, parent, token_bytes, index)


class Pieces:
    """A whole sequence cut at chunks; pieces are made when they are looked at.

    A pin lives long, and only keys and one copy of its tokens are kept for it.

    Args:
        chain: The sequence.
        token_bytes: Its packed token ids, which are kept and not copied.

    Attributes:
        keys: The keys of the pieces in order.
        token_bytes: See above.
    """

    __slots__ = ("_root", "_size", "keys", "token_bytes")

    def __init__(self, chain: KeyChain, token_bytes: bytes) -> None:
        self._root = chain.root
        self._size = chain.chunk_size * TOKEN_BYTES
        self.token_bytes = token_bytes
        tail = len(chain) % chain.chunk_size
        whole = tuple(chain.keys)
        self.keys = (*whole, chain.key(len(whole), tail)) if tail else whole

    def __len__(self) -> int:
        """Number of pieces."""
        return len(self.keys)

    def __getitem__(self, number: int) -> Piece:
        """The piece of a number."""
        start = number * self._size
        parent = self.keys[number - 1] if number else self._root
        token_bytes = self.token_bytes[start : start + self._size]
        return Piece(self.keys[number], parent, token_bytes, number)

    def __iter__(self) -> Iterator[Piece]:
        """The pieces in order."""
        return (self[number] for number in range(len(self.keys)))

    def tokens(self, number: int) -> int:
        """Length of the piece of a number."""
        return min(self._size, len(self.token_bytes) - number * self._size) // TOKEN_BYTES
