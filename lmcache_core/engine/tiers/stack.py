"""The tiers of an instance, their pins and their events, kept in step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import msgspec

from lmcache_core.api import EvictionPolicy
from lmcache_core.api.connector import ChunkChange
from lmcache_core.api.messages import TierStatus
from lmcache_core.engine.chunks.changes import ChangeLog
from lmcache_core.engine.chunks.entry import Entry
from lmcache_core.engine.chunks.events import EventLog
from lmcache_core.engine.chunks.geometry import Geometry
from lmcache_core.engine.chunks.hit_rule import HitRule
from lmcache_core.engine.chunks.piece import Piece, Pieces
from lmcache_core.engine.chunks.residents import Residents
from lmcache_core.engine.frames.frame import FrameSeal
from lmcache_core.engine.pins.keeping import PinKeeping
from lmcache_core.engine.pins.place import PinnableTier
from lmcache_core.engine.pins.table import PINS_AT_ONCE, PinTable
from lmcache_core.engine.storage.tier import StorageTier
from lmcache_core.engine.tiers.admission import Admission
from lmcache_core.engine.tiers.demotion import Demotion
from lmcache_core.engine.tiers.lowering import Lowering
from lmcache_core.engine.tiers.memory import MemoryTier
from lmcache_core.engine.tiers.restoring import PinRestoring
from lmcache_core.errors import BackendError, UnknownNameError
from lmcache_core.keys import (
    EMPTY_SCOPE,
    KEY_BYTES,
    TOKEN_BYTES,
    Key,
    KeyChain,
    Namespace,
    Scope,
)
from lmcache_core.log import get_logger
from lmcache_core.memory import HostPool, HostRegion, Slot

log = get_logger(__name__)

KEYS_AT_ONCE = 1024
"""Keys copied under one hold of the lock, so that a million of them never stall a step."""


class TierStack:
    """Host memory and the tiers below it, under the engine's lock.

    Every way in and out of a tier passes here, so that the pins and the
    controller learn of each.

    Args:
        namespace: What keys are seeded with.
        geometry: The serving engine's blocks.
        rule: Where a hit may end; None where it may end anywhere.
        region: The shared region, attached in this process.
        memory_name: Name of the memory tier.
        capacity_bytes: What the memory tier may take.
        staging_bytes: What promotions may take beside it.
        policy: Eviction order of the memory tier.
        storage: The tiers below, from the top, not opened yet.
        seal: What the storage tiers verify frames with.
        lock: The engine's lock.
        pin_share: The part of each tier that pins may take.
        pin_owner_quota_bytes: Bound on the pins of one owner, or None.
        pin_quotas: Bounds of owners that have one of their own.
        clock: Monotonic seconds.

    Attributes:
        namespace: See above, with the present epoch.
        geometry: See above.
        memory: The memory tier.
        storage: See above.
        lowering: Brings chunks of the memory tier to those below.
        pins: The instance's pins.
        keeping: Which durable tier keeps which of them.
        restoring: Makes them again from what was kept.
        events: What the controller has not been told yet.
        changes: What the connector has not been told yet.
        lock: See above.
    """

    def __init__(
        self,
        *,
        namespace: Namespace,
        geometry: Geometry,
        rule: HitRule | None,
        region: HostRegion,
        memory_name: str,
        capacity_bytes: int,
        staging_bytes: int,
        policy: EvictionPolicy,
        storage: Sequence[StorageTier],
        seal: FrameSeal,
        lock: threading.RLock,
        pin_share: float,
        pin_owner_quota_bytes: int | None,
        pin_quotas: Mapping[str, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.namespace = namespace
        self.geometry = geometry
        self.lock = lock
        self.events = EventLog()
        self.changes = ChangeLog()
        self.storage = tuple(storage)
        self.memory = MemoryTier(
            memory_name,
            HostPool(region.nbytes),
            Residents(capacity_bytes, policy),
            rule=rule,
            staging_bytes=staging_bytes,
            on_admitted=self._note_admitted,
            on_evicted=lambda key, marks: self._note_evicted(memory_name, key, marks),
        )
        self._region = region
        self._seal = seal
        self._digest = namespace.digest()
        self._tiers: dict[str, PinnableTier] = {memory_name: self.memory}
        self._tiers.update({tier.name: tier for tier in self.storage})
        self.pins = PinTable(
            self._tiers,
            chain_of=self.chain_of,
            piece_bytes=self._piece_bytes,
            share=pin_share,
            owner_quota_bytes=pin_owner_quota_bytes,
            own_quotas=pin_quotas,
            clock=clock,
        )
        identity = msgspec.structs.replace(namespace, weights_epoch=0).digest()
        self.keeping = PinKeeping(
            {tier.name: tier.records for tier in self.storage if tier.records is not None},
            identity=identity,
        )
        self.keeping.settled = lambda pin_id: self.pins.note_untold((pin_id,))
        self.restoring = PinRestoring(self.pins, self.keeping, identity=identity, lock=lock)
        if self.keeping.keeps:
            self.pins.keeping = self.keeping
        admission = Admission(self.storage, geometry=geometry, awaited=self.pins.awaits)
        self.lowering = Lowering(self.memory, admission, geometry=geometry, frame=self.frame)
        self._admission = admission
        self._demotion = Demotion(
            self.memory,
            admission,
            geometry=geometry,
            chunk_tokens=namespace.chunk_size,
            view=self.slot_view,
            lock=lock,
        )
        if admission.demotes:
            self.memory.demote = self.lowering.demote

    @property
    def locations(self) -> tuple[str, ...]:
        """Names of the tiers, from the top."""
        return tuple(self._tiers)

    @property
    def recovered(self) -> bool:
        """Whether all that the stores have kept is known."""
        return all(tier.recovered for tier in self.storage)

    def open(self, *, leave_out: bool) -> None:
        """Open the storage tiers.

        Args:
            leave_out: Whether to go on without a store that cannot be used;
                its tier stays, holds nothing and is not healthy until it can.

        Raises:
            BackendError: A store cannot be used and is not left out.
            LMCacheError: A tier's section is wrong.
        """
        # From the bottom, so that what a smaller bound evicts can go down.
        for tier in reversed(self.storage):
            name = tier.name

            def admitted(key: Key, name: str = name) -> None:
                self._note(name, key, admitted=True)
                self.pins.note_stored(name, key)

            def evicted(key: Key, marks: frozenset[str], name: str = name) -> None:
                self._note_evicted(name, key, marks)

            try:
                tier.open(
                    on_admitted=admitted,
                    on_evicted=evicted,
                    on_evicting=partial(self._demotion.take, tier),
                    on_records=partial(self.restoring.take, name),
                    on_records_lost=self.restoring.keep_again,
                    on_joined=partial(self._note_joined, name),
                )
            except BackendError as error:
                if not leave_out:
                    raise
                self._keep_nothing_with(tier)
                tier.leave_out(str(error))

    def _keep_nothing_with(self, tier: StorageTier) -> None:
        with self.lock:
            if tier.records is not None:
                self.keeping.leave_out(tier.name)
            if not self.keeping.keeps:
                self.pins.keeping = None

    def _note_joined(self, location: str) -> None:
        """A tier that was left out is there; what is told of its pins is not true any more."""
        with self.lock:
            pin_ids = self.pins.ids()
        for at in range(0, len(pin_ids), PINS_AT_ONCE):
            with self.lock:
                self.pins.note_joined(location, pin_ids[at : at + PINS_AT_ONCE])

    def close(self) -> None:
        """Close the storage tiers within their deadlines, each before those it evicts into."""
        for tier in self.storage:
            tier.close()

    def tier(self, location: str) -> PinnableTier:
        """The tier of a name.

        Raises:
            UnknownNameError: There is none.
        """
        tier = self._tiers.get(location)
        if tier is None:
            raise UnknownNameError("location", location, self._tiers)
        return tier

    def storage_tier(self, location: str) -> StorageTier | None:
        """The storage tier of a name; None where there is none."""
        return next((tier for tier in self.storage if tier.name == location), None)

    def chain_of(self, token_bytes: bytes, scope: Scope) -> KeyChain:
        """The key chain of packed tokens in a scope, under the present epoch."""
        root = KeyChain.seed(self._digest, scope.digest())
        chain = KeyChain(root, self.namespace.chunk_size)
        chain.extend_bytes(token_bytes)
        return chain

    def frame(self, entry: Entry) -> memoryview:
        """A chunk's frame where it lies: header page and payload, no padding."""
        nbytes = self.geometry.frame_bytes(entry.tokens, entry.pages)
        return self._region.view(entry.slot.offset, nbytes)

    def slot_view(self, slot: Slot, nbytes: int) -> memoryview:
        """The first bytes of a slot, for a frame that is to be read into it."""
        return self._region.view(slot.offset, nbytes)

    def admit(self, entry: Entry) -> None:
        """Let a chunk whose bytes are in place be found in host memory.

        Where it is there already its slot is given back; ``entry.dropped``
        tells.
        """
        superseded = self.memory.admit(entry)
        if superseded is not None:
            name = self.memory.name
            if superseded.key == entry.key:
                # Who follows knows of the chunk; pins may wait for the pages.
                self.pins.note_admitted(name, entry)
            else:
                self._note(name, superseded.key, admitted=False)
            self.pins.note_moved(name, superseded.key, entry.key, superseded.marks)

    def covered(self, token_bytes: bytes, scope: Scope) -> dict[str, int]:
        """Tokens cached from token 0 on, by location, without any side effect."""
        chain = self.chain_of(token_bytes, scope)
        with self.lock:
            return {
                name: sum(cover.tokens for cover in tier.covers(chain))
                for name, tier in self._tiers.items()
            }

    def together(self, token_bytes: bytes, scope: Scope) -> int:
        """Tokens of the chunks from token 0 on of which each is in some tier.

        What one tier has evicted may be in the one below. In models with
        windows it is 0: only a read tells which pages unlike tiers have.
        """
        if self.geometry.windowed:
            return 0
        chain = self.chain_of(token_bytes, scope)
        tokens = 0
        with self.lock:
            for piece in Pieces(chain, token_bytes):
                if not any(piece.key in tier.residents for tier in self._tiers.values()):
                    break
                tokens += len(piece.token_bytes) // TOKEN_BYTES
        return tokens

    def keys(self, location: str) -> Iterator[Key]:
        """All keys of a tier; of what comes and goes meanwhile they may be or not be.

        Raises:
            UnknownNameError: There is no such tier.
        """
        parts = self.packed_keys(location, KEYS_AT_ONCE)
        return (
            part[at : at + KEY_BYTES] for part in parts for at in range(0, len(part), KEY_BYTES)
        )

    def packed_keys(self, location: str, count: int) -> Iterator[bytes]:
        """The same, 32 bytes each, so many at a time; the lock is not held between.

        Raises:
            UnknownNameError: There is no such tier.
        """
        return self._packed_keys(self.tier(location).residents, count)

    def _packed_keys(self, residents: Residents, count: int) -> Iterator[bytes]:
        place = len(residents)
        while place:
            with self.lock:
                part, place = residents.packed_keys(place, count)
            yield part

    def drop(self, location: str, keys: Iterable[Key], *, force: bool) -> int:
        """Drop chunks of a tier; return the tokens that went.

        Args:
            location: The tier.
            keys: Which chunks; those that are gone are passed over.
            force: Whether chunks that a pin marks go too.

        Raises:
            UnknownNameError: There is no such tier.
        """
        with self.lock:
            tier = self.tier(location)
            going = [key for key in keys if force or not tier.residents.marked(key)]
            return tier.drop(going)

    def raise_epoch(self) -> int:
        """Seed keys anew, so that nothing older is read again; return the epoch."""
        epoch = self.namespace.weights_epoch + 1
        self.namespace = msgspec.structs.replace(self.namespace, weights_epoch=epoch)
        self._digest = self.namespace.digest()
        self._seal.namespace = self._digest
        self._admission.raised = True
        self.pins.rebase()
        return epoch

    def status(self) -> tuple[TierStatus, ...]:
        """All tiers, from the top."""
        with self.lock:
            return (self.memory.status(), *(tier.status() for tier in self.storage))

    def counters(self) -> Mapping[str, int]:
        """Running totals of the tiers, by name."""
        totals = {f"{self.memory.name}.evictions": self.memory.evictions}
        for tier in self.storage:
            totals.update({f"{tier.name}.{name}": n for name, n in tier.totals().items()})
        return totals

    def _note_admitted(self, entry: Entry) -> None:
        name = self.memory.name
        self._note(name, entry.key, admitted=True)
        self.pins.note_admitted(name, entry)

    def _note_evicted(self, location: str, key: Key, marks: frozenset[str]) -> None:
        self._note(location, key, admitted=False)
        if marks:
            self.pins.note_lost(location, key, marks)

    def _note(self, location: str, key: Key, *, admitted: bool) -> None:
        """Tell the controller and whoever follows that a chunk has come or gone."""
        self.events.note(location, key, admitted=admitted)
        if self.changes.followed:
            self.changes.note(self._change(location, key, admitted=admitted))

    def _change(self, location: str, key: Key, *, admitted: bool) -> ChunkChange:
        # What host memory writes is there all the while; what a store evicts
        # into another one is told by its key alone.
        entry = self.memory.index.get(key) if admitted else None
        if entry is None:
            return ChunkChange(location, admitted, key)
        plain_root = KeyChain.seed(self._digest, EMPTY_SCOPE.digest())
        parent = None if entry.parent == plain_root else entry.parent
        return ChunkChange(location, admitted, key, parent, entry.token_bytes)

    def _piece_bytes(self, piece: Piece) -> int:
        return self.geometry.slot_bytes(len(piece.token_bytes) // TOKEN_BYTES)
