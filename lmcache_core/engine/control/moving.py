"""Moving or copying the chunks of a sequence from one tier of an instance to another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from lmcache_core.engine.cache.promotion import reserve
from lmcache_core.engine.chunks.entry import Entry
from lmcache_core.engine.chunks.piece import Piece, Pieces
from lmcache_core.engine.storage.tier import StorageTier
from lmcache_core.engine.tiers.stack import TierStack
from lmcache_core.errors import ConflictError
from lmcache_core.keys import TOKEN_BYTES, KeyChain

CHUNKS_AT_ONCE = 8
"""Chunks under way of one move, so that it leaves host memory to those who serve."""


class Move:
    """One move under way; whoever began it calls :meth:`advance` until it is done.

    A chunk counts as moved when it is in the new tier, and leaves the old one
    only then. Chunks pass through host memory, leased; where there is no room
    for one, the move ends with those before it.

    Args:
        tiers: The instance's tiers.
        source: Name of the old tier.
        target: Name of the new tier.
        chain: The sequence.
        keep: Whether the old tier keeps what it has.
        refuse_pinned: Whether it is refused where chunks are pinned in the old
            tier; it always is where that does not keep them.
        name: Names the leases.
        progressed: Called, with the engine's lock held, when it can go on.

    Attributes:
        tokens: Tokens of the sequence that the old tier had, from the first on.
        moved_tokens: Those of them, from the first on, that are in the new tier.
        done: Chunks that are in the new tier.
        total: Chunks that the old tier had, once it is known.

    Raises:
        UnknownNameError: There is no tier of a name.
    """

    def __init__(
        self,
        tiers: TierStack,
        source: str,
        target: str,
        chain: KeyChain,
        *,
        keep: bool,
        refuse_pinned: bool = False,
        name: str,
        progressed: Callable[[], None],
    ) -> None:
        self._tiers = tiers
        self._source = tiers.tier(source)
        self._target = tiers.tier(target)
        self._keeps = keep or self._source is self._target
        self._owner = f"move:{name}"
        self._progressed = progressed
        ends = dict.fromkeys((self._source, self._target))
        self._shared = [end for end in ends if isinstance(end, StorageTier) and end.shared]
        self._refuses_pinned = refuse_pinned or not keep
        self._under_way = 0
        self._ended = False
        self._moved: set[int] = set()
        self._chain: KeyChain | None = chain
        self._pieces: deque[Piece] = deque()
        self._sizes: list[int] = []
        self.tokens = 0
        with tiers.lock:
            self._asking = sum(self._ask(chain, tier) for tier in self._shared)

    @property
    def moved_tokens(self) -> int:
        """See above."""
        total = 0
        for number, tokens in enumerate(self._sizes):
            if number not in self._moved:
                break
            total += tokens
        return total

    @property
    def done(self) -> int:
        """See above."""
        return len(self._moved)

    @property
    def total(self) -> int:
        """See above."""
        return len(self._sizes)

    def advance(self) -> bool:
        """Begin with chunks as far as that is due; True when nothing is left to do.

        Raises:
            ConflictError: It, or what is to follow it, would take pinned
                chunks out of the old tier.
        """
        with self._tiers.lock:
            if self._asking:
                return False
            if self._chain is not None:
                self._take(self._chain)
                self._chain = None
            while self._pieces and not self._ended and self._under_way < CHUNKS_AT_ONCE:
                self._under_way += 1
                self._begin(self._pieces.popleft())
            return not self._under_way and (self._ended or not self._pieces)

    def end(self) -> None:
        """Begin with no more chunks; those under way are moved or let go behind."""
        self._ended = True

    def _ask(self, chain: KeyChain, tier: StorageTier) -> bool:
        """Have a tier look for what others may have put into its store, or taken away."""

        def answered() -> None:
            self._asking -= 1
            self._progressed()

        keys = Pieces(chain, chain.all_bytes()).keys
        return bool(keys) and tier.breaker.allows() and tier.ask(keys, answered)

    def _take(self, chain: KeyChain) -> None:
        """Take up what the old tier has, unless it may not go."""
        if not all(tier.breaker.healthy for tier in self._shared):
            return  # What is known of its store may not be so.
        pieces = deque(self._held(chain))
        if self._refuses_pinned:
            self._refuse_pinned(pieces)
        self._pieces = pieces
        self._sizes = [len(piece.token_bytes) // TOKEN_BYTES for piece in pieces]
        self.tokens = sum(self._sizes)

    def _held(self, chain: KeyChain) -> Iterator[Piece]:
        """The pieces of the sequence that the old tier has, from the first on."""
        for piece in Pieces(chain, chain.all_bytes()):
            if piece.key not in self._source.residents:
                return
            yield piece

    def _refuse_pinned(self, pieces: Iterable[Piece]) -> None:
        source, target = self._source.name, self._target.name
        stuck = self._tiers.pins.stuck
        pins = set().union(*(stuck(source, piece.key, target) for piece in pieces))
        if pins:
            message = (
                f"chunks of these tokens are pinned in {source} by "
                f"{', '.join(sorted(pins)[:3])}{' and others' if len(pins) > 3 else ''}; "
                "release the pin, pin the new location, or copy with should_copy"
            )
            raise ConflictError(message)

    def _begin(self, piece: Piece) -> None:
        # Where pages can be missing, the old tier may have some that the new one has not.
        if piece.key in self._target.residents and (
            self._source is self._target or not self._tiers.geometry.windowed
        ):
            self._finish(piece)
            return
        entry = self._tiers.memory.index.get(piece.key)
        if entry is not None:
            self._tiers.memory.lease((entry,), self._owner)
            self._bring(piece, entry)
        elif isinstance(self._source, StorageTier):
            self._fetch(piece, self._source)
        else:
            self._finish(piece)  # It has left host memory since.

    def _fetch(self, piece: Piece, source: StorageTier) -> None:
        """Read a chunk into host memory."""
        read = reserve(self._tiers, piece, source) if source.breaker.allows() else None
        if read is None:
            self._finish(piece)
            return
        entry = read.entry

        def done(whole: list[bool]) -> None:
            if not whole[0]:
                self._tiers.memory.abandon(entry)
                self._finish(piece)
                return
            entry.leases = {self._owner}
            self._tiers.admit(entry)
            # Somebody else's copy may have been the first to be there.
            there = self._tiers.memory.index.get(piece.key) if entry.dropped else entry
            if there is None:
                self._finish(piece)
                return
            self._tiers.memory.lease((there,), self._owner)
            self._bring(piece, there)

        if not source.read([read], done):
            done([False])

    def _bring(self, piece: Piece, entry: Entry) -> None:
        """Bring a chunk that is leased in host memory to the new tier."""

        def done() -> None:
            self._tiers.memory.release((entry,), self._owner)
            self._finish(piece)

        target = self._target
        if not isinstance(target, StorageTier) or not self._tiers.geometry.may_leave(entry.tokens):
            # Behind the last token of such a tail may lie what is another tenant's.
            done()
        elif not target.write(entry, self._tiers.frame(entry), done):
            done()

    def _finish(self, piece: Piece) -> None:
        """A chunk has come to the new tier, or will not; in the old one it may go."""
        self._under_way -= 1
        if piece.key in self._target.residents and (
            self._keeps or self._tiers.pins.let_leave(self._source.name, piece.key)
        ):
            self._moved.add(piece.number)
            if not self._keeps and not self._source.residents.marked(piece.key):
                self._source.drop([piece.key])
        else:
            self._ended = True
        self._progressed()
