"""The tier in host memory: slots of the pool, found by prefix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from lmcache_core.api.messages import TierStatus
from lmcache_core.engine.chunks.entry import Entry
from lmcache_core.engine.chunks.hit_rule import HitRule
from lmcache_core.engine.chunks.index import Found, PrefixIndex
from lmcache_core.engine.chunks.pages import fuller
from lmcache_core.engine.chunks.piece import Cover, Piece, cut
from lmcache_core.engine.chunks.residents import Residents
from lmcache_core.keys import Key, KeyChain
from lmcache_core.memory import HostPool, Slot

MAX_VICTIMS_PER_SLOT = 256
"""Bound on evictions for one slot, where only fragmentation is in the way."""


class Superseded(NamedTuple):
    """An entry that another one has taken the place of.

    Attributes:
        key: Its key: that of a tail, and the other one is longer, or the same
            key, and the other one has more pages.
        marks: Ids of the pins that it carried.
    """

    key: Key
    marks: frozenset[str]


class MemoryTier:
    """Entries whose payload a worker can copy from.

    Not thread-safe: the engine's lock is held around every call.

    Args:
        name: The tier's name.
        pool: The slots, as large as the tier and the staging part together.
        residents: The tier's accounting.
        rule: Where a hit may end; None where it may end anywhere.
        staging_bytes: What promotions may take beside the tier.
        on_admitted: Called with each entry whose key can be found from now on.
        on_evicted: Called with each key and the marks it carried.

    Attributes:
        name: See above.
        index: Its entries, staged ones too.
        residents: See above.
        evictions: How many entries have had to make room.
        demote: Called with each entry that is to make room; says whether it
            has leased it, to bring it below. None where nothing goes below.
    """

    def __init__(
        self,
        name: str,
        pool: HostPool,
        residents: Residents,
        *,
        rule: HitRule | None,
        staging_bytes: int,
        on_admitted: Callable[[Entry], None],
        on_evicted: Callable[[Key, frozenset[str]], None],
    ) -> None:
        self.name = name
        self.index = PrefixIndex()
        self.residents = residents
        self.evictions = 0
        self.demote: Callable[[Entry], bool] | None = None
        self._pool = pool
        self._rule = rule
        self._staging_bytes = staging_bytes
        self._staged_bytes = 0
        # The other half of the staging part is left to promotions.
        self._demoting_limit = staging_bytes // 2
        self._demoting_bytes = 0
        self._writing_bytes = 0
        self._on_admitted = on_admitted
        self._on_evicted = on_evicted

    def find(self, chain: KeyChain, limit: int) -> Found:
        """The longest prefix of at most ``limit`` tokens that may be a hit."""
        found = self.index.find(chain, limit)
        return found if self._rule is None else self._usable(self._rule, found, chain.chunk_size)

    def covers(self, chain: KeyChain) -> list[Cover]:
        """The entries that cover a sequence from token 0 on, piece by piece."""
        found = self.index.find(chain, len(chain), staged=False)
        if self._rule is not None:
            found = self._usable(self._rule, found, chain.chunk_size)
        return cut((Cover(entry.key, entry.tokens) for entry in found.entries), found.tokens)

    def best_cover(self, piece: Piece) -> Cover | None:
        """The entry that covers most of a piece from its first token on, or None."""
        entry, tokens = self.index.best_child(piece.parent, piece.token_bytes, staged=False)
        return None if entry is None or not tokens else Cover(entry.key, tokens)

    @property
    def holds(self) -> bool:
        """Nothing that is marked goes from here by itself."""
        return True

    @property
    def away(self) -> str:
        """It is there as long as the engine is."""
        return ""

    @property
    def usable(self) -> Callable[[Sequence[Cover]], int] | None:
        """Tells how many tokens of what some entries cover may be a hit; None for all."""
        rule = self._rule
        if rule is None:
            return None
        return lambda covers: rule.end(
            [self.index[cover.key].pages for cover in covers],
            sum(cover.tokens for cover in covers),
        )

    def allocate(self, nbytes: int) -> Slot | None:
        """Take a slot for a chunk to be written, evicting what must go.

        Args:
            nbytes: What the slot is to have.

        Returns:
            The slot, or None where everything else is pinned or in use.
        """
        residents = self.residents
        room = residents.capacity_bytes - self._writing_bytes - nbytes
        while residents.used_bytes > room:
            if not self._evict_one():
                return None
        slot = self._pool.allocate(nbytes) or self._make_run(nbytes)
        if slot is not None:
            self._writing_bytes += slot.nbytes
        return slot

    def allocate_staging(self, nbytes: int) -> Slot | None:
        """Take a slot of the staging part, which no tier and no pin may take."""
        if self._staged_bytes + nbytes > self._staging_bytes:
            return None
        slot = self._pool.allocate(nbytes)
        if slot is not None:
            self._staged_bytes += slot.nbytes
        return slot

    def begin_demotion(self, nbytes: int) -> bool:
        """Let so many bytes more of what is evicted live on in the staging part, if they may."""
        if (
            self._demoting_bytes + nbytes > self._demoting_limit
            or self._staged_bytes + nbytes > self._staging_bytes
        ):
            return False
        self._demoting_bytes += nbytes
        return True

    def end_demotion(self, nbytes: int) -> None:
        """These bytes are below, or lost."""
        self._demoting_bytes -= nbytes

    def borrow(self, nbytes: int) -> Slot | None:
        """Take a slot of the staging part for what a tier below evicts."""
        if not self.begin_demotion(nbytes):
            return None
        slot = self.allocate_staging(nbytes)
        if slot is None:
            self.end_demotion(nbytes)
        return slot

    def give_back(self, slot: Slot) -> None:
        """Give back a slot that was borrowed."""
        self.end_demotion(slot.nbytes)
        self._staged_bytes -= slot.nbytes
        self._pool.free(slot)

    def abandon(self, entry: Entry) -> None:
        """Give back the slot of an entry that was never admitted."""
        self._free(entry, writing=not entry.staged)

    def admit(self, entry: Entry) -> Superseded | None:
        """Let an entry whose bytes are in place be found.

        Of two copies of one chunk the fuller one stays. A longer chunk takes
        the place of a tail also where it has fewer pages: without it the
        chain would end there.

        Returns:
            What it superseded, or None. Where an equal entry is there
            already, or a longer one covers it, or a tail has to stay, the
            slot is given back and ``entry.dropped`` is set.
        """
        child, agreed = self.index.best_child(entry.parent, entry.token_bytes)
        cover = child if agreed == entry.tokens else None
        tail = child and self.index.covered_tail(entry.parent, entry.token_bytes)
        if (cover is not None and not self._may_replace(cover, entry)) or (
            tail is not None and not self._may_supersede(tail, entry)
        ):
            entry.dropped = True
            self.abandon(entry)
            return None
        superseded = None
        if cover is not None:
            staged, marks = cover.staged, self._remove(cover)
            # One that is only staged goes with its leases, and nobody minds.
            superseded = None if staged else Superseded(cover.key, marks)
        if tail is not None:
            staged, marks = tail.staged, self._remove(tail)
            superseded = None if staged else Superseded(tail.key, marks)
        self.index.add(entry)
        if not entry.staged:
            self._writing_bytes -= entry.slot.nbytes
            self.residents.add(entry.key, entry.slot.nbytes)
            if superseded is None or superseded.key != entry.key:
                self._on_admitted(entry)
        return superseded

    def lease(self, entries: Iterable[Entry], owner: str) -> None:
        """Keep the slots of entries as they are until the owner releases them."""
        for entry in entries:
            if entry.leases is None:
                entry.leases = {owner}
            else:
                entry.leases.add(owner)

    def release(self, entries: Iterable[Entry], owner: str) -> None:
        """End an owner's leases; give back the slots that only they kept."""
        for entry in entries:
            leases = entry.leases
            if leases is None:
                continue
            leases.discard(owner)
            if leases:
                continue
            entry.leases = None
            if entry.dropped:
                self._free(entry, writing=not entry.staged)
            elif entry.staged:
                self._remove(entry)
            else:
                self.residents.let_go(entry.key)

    def drop(self, keys: Iterable[Key]) -> int:
        """Take entries out of the index; return their tokens.

        Slots are given back at once, or with the last lease.
        """
        tokens = 0
        for key in keys:
            entry = self.index.get(key)
            if entry is not None:
                tokens += entry.tokens
                self._on_evicted(key, self._remove(entry))
        return tokens

    def status(self) -> TierStatus:
        """The tier as the controller is told of it."""
        residents = self.residents
        return TierStatus(
            location=self.name,
            kind="memory",
            capacity_bytes=residents.capacity_bytes,
            used_bytes=residents.used_bytes,
            pinned_bytes=residents.pinned_bytes + residents.reserved_bytes,
            entries=len(residents),
        )

    @staticmethod
    def _usable(rule: HitRule, found: Found, chunk_tokens: int) -> Found:
        """The part of a prefix that may be a hit."""
        tokens = rule.end([entry.pages for entry in found.entries], found.tokens)
        return Found(found.entries[: -(-tokens // chunk_tokens)], tokens)

    def _may_replace(self, cover: Entry, entry: Entry) -> bool:
        """Whether an entry may take the place of one that covers it."""
        if entry.staged:
            return False
        if cover.staged:
            return True
        if cover.key != entry.key or not fuller(entry.pages, cover.pages):
            return False
        return self._may_supersede(cover, entry)

    def _may_supersede(self, tail: Entry, entry: Entry) -> bool:
        """Whether a larger entry may take the place of another, and its pins."""
        if tail.staged:
            return True
        if entry.staged:
            return False
        if not self.residents.marked(tail.key):
            return True
        # What is pinned may be given more room, and no page of it may go.
        return (
            self._rule is None or self._rule.keeps(entry.pages, tail.pages, tail.tokens)
        ) and self.residents.may_pin(entry.slot.nbytes - tail.slot.nbytes)

    def _make_run(self, nbytes: int) -> Slot | None:
        """Take a slot where there is room and no run of it, evicting until there is one."""
        slot = None
        for _ in range(MAX_VICTIMS_PER_SLOT):
            if slot is not None or not self._evict_one():
                break
            slot = self._pool.allocate(nbytes)
        return slot

    def _evict_one(self) -> bool:
        while (key := self.residents.victim()) is not None:
            entry = self.index[key]
            if entry.leases:
                # Leases do not touch the eviction order, so that a write to a
                # slow store does not make a chunk look used; one that has
                # come to its end while it is leased steps aside.
                self.residents.hold(key)
                continue
            self.evictions += 1
            if self.demote is not None and self.demote(entry):
                self._stage(entry)
            else:
                self._on_evicted(key, self._remove(entry, evicted=True))
            return True
        return False

    def _stage(self, entry: Entry) -> None:
        """Let an evicted entry that is leased go on in the staging part, where it can be found."""
        entry.staged = True
        self._staged_bytes += entry.slot.nbytes
        self._on_evicted(entry.key, self.residents.discard(entry.key, evicted=True))

    def _remove(self, entry: Entry, *, evicted: bool = False) -> frozenset[str]:
        self.index.remove(entry)
        entry.dropped = True
        marks = self.residents.discard(entry.key, evicted=evicted)
        if entry.leases is None:
            self._free(entry, writing=False)
        elif not entry.staged:
            # The bytes are still taken, by whoever reads them.
            self._writing_bytes += entry.slot.nbytes
        return marks

    def _free(self, entry: Entry, *, writing: bool) -> None:
        if entry.staged:
            self._staged_bytes -= entry.slot.nbytes
        elif writing:
            self._writing_bytes -= entry.slot.nbytes
        self._pool.free(entry.slot)
