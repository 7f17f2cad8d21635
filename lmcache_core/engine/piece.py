"""A token sequence cut at chunks, and what covers each piece of it."""

from __future__ import annotations

from typing import NamedTuple

from lmcache_core.keys import Key, KeyChain


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


def pieces_of(chain: KeyChain) -> tuple[Piece, ...]:
    """Cut a whole sequence into pieces."""
    size = chain.chunk_size
    return tuple(
        piece_at(chain, index, min(size, len(chain) - index * size))
        for index in range(-(-len(chain) // size))
    )
