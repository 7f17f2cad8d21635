"""Bringing chunks from below host memory up, while their request waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from lmcache_core.api.frames import HEADER_BYTES
from lmcache_core.engine.cache.request import Request
from lmcache_core.engine.chunks.entry import Entry
from lmcache_core.engine.chunks.geometry import slot_size
from lmcache_core.engine.chunks.piece import Piece, Pieces
from lmcache_core.engine.frames.reading import Read
from lmcache_core.engine.storage.tier import StorageTier
from lmcache_core.engine.tiers.stack import TierStack
from lmcache_core.keys import TOKEN_BYTES, Key
from lmcache_core.log import get_logger

log = get_logger(__name__)

PART_BYTES = 8 << 20
"""Asked of a store in one call: more gives it nothing to do better, less costs it round trips."""


class Fetch(NamedTuple):
    """A read under way, and who waits or has waited for it."""

    tier: StorageTier
    requests: list[Request]


class Promoter:
    """Reads frames into slots, so that a worker's load is only ever a copy.

    A promotion that fails or is late is a shorter hit. Its slots stay
    reserved until the store's call has returned, however late.

    Not thread-safe but for what storage tiers call: the engine's lock is held
    around every call.

    Args:
        tiers: The instance's tiers.
        counters: Running totals to add to.
        timeout_seconds: How long a request waits.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        tiers: TierStack,
        counters: dict[str, int],
        *,
        timeout_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tiers = tiers
        self._counters = counters
        self._timeout = timeout_seconds
        self._clock = clock
        self._fetching: dict[Key, Fetch] = {}

    def start(self, request: Request) -> None:
        """Start fetching the run of chunks that continues what memory holds."""
        if self._tiers.storage:
            request.promote_due = self._clock() + self._timeout
            self._fetch_from(request, 0, ask=True)

    def waits(self, request: Request) -> bool:
        """Whether a request is still to wait; after its time is up it never is."""
        if not request.promoting and not request.asking:
            return False
        if self._clock() < request.promote_due:
            return True
        self._counters["promotion_timeouts"] += 1
        for tier in self._tiers.storage:
            if tier.name in request.asking or tier.name in request.promoting.values():
                log.warning("promotion.timed_out", tier=tier.name, seconds=self._timeout)
                tier.breaker.failed()
        request.promoting.clear()
        request.asking.clear()
        return False

    def release(self, request: Request) -> None:
        """End the leases of what was fetched for a request."""
        if request.promoted:
            promoted, request.promoted = request.promoted, []
            self._tiers.memory.release(reversed(promoted), promotion_owner(request))

    def _fetch_from(self, request: Request, first: int, *, ask: bool) -> None:
        """Fetch from a piece on what is known to be below.

        Args:
            request: Who waits for it.
            first: Number of the piece.
            ask: Whether shared stores are asked for what is not known of.
        """
        usable: dict[str, bool] = {}
        reads: dict[str, list[Read]] = {}
        memory = self._tiers.memory
        pieces = Pieces(request.chain, request.chain.all_bytes())
        for number in range(first, len(pieces)):
            piece = pieces[number]
            present = memory.index.get(piece.key)
            if present is not None:
                # What is there must not be evicted for what is to continue it.
                memory.lease((present,), promotion_owner(request))
                request.promoted.append(present)
                if not self._fuller_below(piece, present):
                    continue
            fetch = self._fetch(piece, usable, reads)
            if fetch is None and present is None:
                if ask:
                    self._ask(request, pieces.keys, number, usable)
                break
            if fetch is None:
                continue
            fetch.requests.append(request)
            request.promoting[piece.key] = fetch.tier.name
        for tier in self._tiers.storage:
            if tier.name in reads:
                self._submit(tier, reads[tier.name])
        if not request.promoting and not request.asking:
            self.release(request)

    def _ask(
        self, request: Request, keys: Sequence[Key], first: int, usable: dict[str, bool]
    ) -> None:
        """Have shared stores look for pieces that no tier is known to have."""
        if any(keys[first] in tier.residents for tier in self._tiers.storage):
            return  # It is there, and cannot be had just now.

        def answered(name: str) -> None:
            if name not in request.asking:
                return  # It has waited too long.
            request.asking.discard(name)
            if not request.asking and not request.closed:
                self._fetch_from(request, first, ask=False)

        for tier in self._tiers.storage:
            if tier.shared and self._may_ask(tier, usable):
                unknown = [key for key in keys[first:] if key not in tier.residents]
                request.asking.add(tier.name)
                if not tier.ask(unknown, partial(answered, tier.name)):
                    request.asking.discard(tier.name)

    def _fetch(
        self, piece: Piece, usable: dict[str, bool], reads: dict[str, list[Read]]
    ) -> Fetch | None:
        """The read of a piece, under way or to be submitted; None where there can be none."""
        fetch = self._fetching.get(piece.key)
        if fetch is not None:
            # Where it stalls, who comes later does not wait as well.
            return fetch if fetch.tier.breaker.healthy else None
        tier = self._holder(piece, usable)
        read = None if tier is None else reserve(self._tiers, piece, tier)
        if tier is None or read is None:
            return None
        reads.setdefault(tier.name, []).append(read)
        fetch = self._fetching[piece.key] = Fetch(tier, [])
        return fetch

    def _fuller_below(self, piece: Piece, present: Entry) -> bool:
        """Whether a store has pages of a chunk that host memory has not."""
        if present.pages is None:
            return False
        nbytes = self._tiers.geometry.frame_bytes(present.tokens, present.pages)
        return any((tier.raw_bytes(piece.key) or 0) > nbytes for tier in self._tiers.storage)

    def _holder(self, piece: Piece, usable: dict[str, bool]) -> StorageTier | None:
        """The first tier that holds a piece and may be asked, noting which may."""
        for tier in self._tiers.storage:
            if piece.key not in tier.residents:
                continue
            if self._may_ask(tier, usable):
                return tier
        return None

    def _may_ask(self, tier: StorageTier, usable: dict[str, bool]) -> bool:
        """Whether a tier may be asked; who asks this has something to ask of it.

        An open breaker lets one caller through, who must call.
        """
        if tier.name not in usable:
            usable[tier.name] = tier.breaker.allows()
        return usable[tier.name]

    def _submit(self, tier: StorageTier, reads: list[Read]) -> None:
        for part in _parts(reads):

            def done(whole: list[bool], part: Sequence[Read] = part) -> None:
                for read, ok in zip(part, whole, strict=True):
                    self._take_in(read.entry, ok=ok)

            if not tier.read(part, done):
                done([False] * len(part))

    def _take_in(self, entry: Entry, *, ok: bool) -> None:
        fetch = self._fetching.pop(entry.key)
        waiting = [
            request
            for request in fetch.requests
            if request.promoting.pop(entry.key, None) and not request.closed
        ]
        if not ok or (entry.staged and not waiting):
            self._tiers.memory.abandon(entry)
            return
        if waiting:
            entry.leases = {promotion_owner(request) for request in waiting}
        self._tiers.admit(entry)
        if not entry.dropped:
            self._counters["promoted_chunks"] += 1
            for request in waiting:
                request.promoted.append(entry)
            self._tiers.lowering.promoted(entry, fetch.tier)


def _parts(reads: Sequence[Read]) -> Iterator[Sequence[Read]]:
    """Cut reads up, so that some are verified while others are still read."""
    first = nbytes = 0
    for place, read in enumerate(reads, start=1):
        nbytes += len(read.frame)
        if nbytes >= PART_BYTES or place == len(reads):
            yield reads[first:place]
            first, nbytes = place, 0


def reserve(tiers: TierStack, piece: Piece, tier: StorageTier) -> Read | None:
    """Make room in host memory for a chunk that a storage tier has.

    Returns:
        What is to be read, or None where there is no room; its entry is
        staged where only the staging part has some.
    """
    frame_bytes = _frame_bytes(tiers, piece, tier)
    nbytes = slot_size(frame_bytes)
    slot = tiers.memory.allocate(nbytes)
    staged = slot is None
    if slot is None:
        slot = tiers.memory.allocate_staging(nbytes)
    if slot is None:
        return None
    entry = Entry(piece, slot, tier.name)
    entry.staged = staged
    return Read(entry, tiers.slot_view(slot, frame_bytes))


def _frame_bytes(tiers: TierStack, piece: Piece, tier: StorageTier) -> int:
    """Length of the frame to be read: that of a complete chunk, or less where pages miss.

    Which pages it has, it says when it is read. A store may say anything of
    lengths; what cannot be is left to the read to find out.
    """
    geometry = tiers.geometry
    complete = geometry.frame_bytes(len(piece.token_bytes) // TOKEN_BYTES)
    known = tier.raw_bytes(piece.key)
    if known is None or not geometry.windowed:
        return complete
    return known if HEADER_BYTES <= known < complete else complete


def promotion_owner(request: Request) -> str:
    """Who holds the leases of chunks that were fetched for a request."""
    return f"promote:{request.request_id}"
