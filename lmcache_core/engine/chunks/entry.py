"""One chunk in host memory: its name, its tokens and the slot that holds it."""

from __future__ import annotations

from lmcache_core.engine.chunks.pages import Pages
from lmcache_core.engine.chunks.piece import Piece
from lmcache_core.keys import TOKEN_BYTES, Key
from lmcache_core.memory import Slot


class Entry:
    """A chunk that is, or is about to be, readable from host memory.

    Token ids are kept beside the key because a look-up answers to the token:
    a prompt may share three hundred tokens with a stored chunk of a longer
    one. They cost four bytes a token and leave with the entry.

    Attributes:
        key: The chunk's key.
        parent: Key of the chunk before it, or the chain's root.
        token_bytes: Its token ids as little-endian uint32.
        slot: Where its header page and payload lie in the pool.
        pages: Which of its pages are in the payload.
        origin: Name of the tier its bytes came from.
        staged: Whether it lives in the staging part of the pool, where it
            stays no longer than its leases.
        dropped: Whether it has left the index and waits for its last lease.
        sealed: Whether its header page is that of a verified frame.
        leases: Who is reading or writing the slot; None for nobody.
    """

    __slots__ = (
        "dropped",
        "key",
        "leases",
        "origin",
        "pages",
        "parent",
        "sealed",
        "slot",
        "staged",
        "token_bytes",
    )

    def __init__(self, piece: Piece, slot: Slot, origin: str, pages: Pages = None) -> None:
        self.key, self.parent, self.token_bytes, _ = piece
        self.slot = slot
        self.pages = pages
        self.origin = origin
        self.staged = False
        self.dropped = False
        self.sealed = False
        self.leases: set[str] | None = None

    @property
    def tokens(self) -> int:
        """Number of tokens whose KV is valid."""
        return len(self.token_bytes) // TOKEN_BYTES


class Carried(Entry):
    """A chunk on its way from one store to another, found by no look-up.

    Its key is all that is known of it until its frame has been read; which
    token ids it has never is.
    """

    __slots__ = ("_tokens",)

    def __init__(self, key: Key, slot: Slot, origin: str) -> None:
        super().__init__(Piece(key, b"", b"", 0), slot, origin)
        self._tokens = 0

    @property
    def tokens(self) -> int:
        """Number of tokens whose KV is valid, by its frame."""
        return self._tokens

    def learn(self, parent: Key, tokens: int) -> None:
        """Take over what the header of its frame says."""
        self.parent = parent
        self._tokens = tokens
