"""Blocks of one length under 32-byte names, for a host that has an index of its own.

A host that decides itself what is cached and where a prefix ends needs of us
no more than this: a storage tier with its bound, its breaker, its serdes and
its verified frames, whatever backend is under it.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from lmcache_core.api.frames import HEADER_BYTES
from lmcache_core.engine.chunks.entry import Entry
from lmcache_core.engine.chunks.geometry import slot_size
from lmcache_core.engine.chunks.piece import Piece
from lmcache_core.engine.frames.reading import Read
from lmcache_core.engine.storage.tier import StorageTier
from lmcache_core.keys import TOKEN_BYTES, Key
from lmcache_core.log import get_logger
from lmcache_core.memory import Slot
from lmcache_core.memory.copying import copy_bytes

log = get_logger(__name__)

PART_BYTES = 8 << 20
"""Read in one call of the backend, but at least one block."""

LEAST_SLOTS = 4

MARGIN_SECONDS = 1.0
"""What a call may be late beyond its deadline before nobody waits for it."""

PARENT = bytes(32)
TOKEN = bytes(TOKEN_BYTES)
"""A block is a frame of one token, whose one page it is."""


class _Part:
    """Blocks that are read in one call."""

    def __init__(self, numbers: Sequence[int], reads: Sequence[Read]) -> None:
        self.numbers = numbers
        self.reads = reads
        self.whole: list[bool] | None = None
        self.given_up = False


class BlockStore:
    """Puts a host's blocks into a storage tier and gets them back, verified.

    Bytes pass through memory of its own, so that a backend's call that comes
    back late touches nothing of the host's. Methods may be called from any
    thread; those that wait say so.

    Args:
        tier: The tier, not opened yet.
        changed: The condition of the lock that the tier was made with.
        block_bytes: Length of a block.
        staging_bytes: Memory for blocks on their way.
        call_seconds: Deadline of one call of the backend.

    Attributes:
        tier: See above; read under ``changed``.
        changed: See above.
    """

    def __init__(
        self,
        tier: StorageTier,
        changed: threading.Condition,
        *,
        block_bytes: int,
        staging_bytes: int,
        call_seconds: float,
    ) -> None:
        self.tier = tier
        self.changed = changed
        self._block_bytes = block_bytes
        self._patience_seconds = call_seconds + MARGIN_SECONDS
        slot_bytes = slot_size(HEADER_BYTES + block_bytes)
        slots = max(LEAST_SLOTS, staging_bytes // slot_bytes)
        # Private, so that pages are committed when they are first used.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._memory = memoryview(mmap.mmap(-1, slots * slot_bytes, flags=flags))
        self._free = [Slot(number * slot_bytes, slot_bytes) for number in range(slots)]
        self._part_blocks = max(1, min(PART_BYTES // slot_bytes, slots // 4))
        self._closing = False

    def open(
        self, *, on_admitted: Callable[[Key], None], on_evicted: Callable[[Key], None]
    ) -> None:
        """Open the backend and take in what it has kept.

        Args:
            on_admitted: Called under the lock with each name that is there
                from now on.
            on_evicted: Called under the lock with each name that has left.

        Raises:
            BackendError: The store cannot be used; :meth:`leave_out` may follow.
        """
        self.tier.open(
            on_admitted=on_admitted,
            on_evicted=lambda key, _marks: on_evicted(key),
            on_evicting=lambda _known: None,
        )

    def leave_out(self, reason: str) -> None:
        """Go on without the store, which could not be opened, and use it once it is there.

        Args:
            reason: What it has failed with.
        """
        self.tier.leave_out(reason)

    def touch(self, keys: Sequence[Key]) -> None:
        """Note a use of blocks."""
        with self.changed:
            for key in keys:
                self.tier.residents.touch(key)

    def put(self, keys: Sequence[Key], blocks: Sequence[memoryview]) -> list[bool]:
        """Store blocks; waits, as long as the backend goes on answering.

        Args:
            keys: Their names.
            blocks: Their bytes, not looked at after the call.

        Returns:
            For each whether it is there now.
        """
        pending: set[Key] = set()
        for key, block in zip(keys, blocks, strict=True):
            with self.changed:
                if key in self.tier.residents or key in pending:
                    continue
                slot = self._take_slot(wait=True)
            if slot is None:
                break
            frame = self._frame(slot)
            copy_bytes(frame[HEADER_BYTES:], block)
            with self.changed:
                done = partial(self._written, key, slot, pending)
                pending.add(key)
                if not self.tier.write(self._entry(key, slot), frame, done):
                    done()
        with self.changed:
            self._await(lambda: len(pending))
            return [key in self.tier.residents for key in keys]

    def get(self, keys: Sequence[Key], blocks: Sequence[memoryview]) -> list[bool]:
        """Read blocks, every byte verified; waits, as long as the backend goes on answering.

        Args:
            keys: Their names.
            blocks: Where to put them; not written to after the call, nor
                where a block is not whole.

        Returns:
            For each whether it was put in its place.
        """
        whole = [False] * len(keys)
        with self.changed:
            if not self.tier.breaker.allows():
                return whole
            failures = self.tier.breaker.failures
        under_way: deque[_Part] = deque()
        number = 0
        while number < len(keys) or under_way:
            while number < len(keys) and len(under_way) < 2:
                part = self._begin(keys, number, wait=not under_way)
                if part is None:
                    break
                under_way.append(part)
                number = part.numbers[-1] + 1
            if not under_way:
                break
            self._finish(under_way.popleft(), blocks, whole)
            if self.tier.breaker.failures != failures or self._closing:
                break
        for part in under_way:
            self._give_up(part)
        return whole

    def close(self) -> None:
        """Let nobody wait any longer, and close the tier, within a bound."""
        with self.changed:
            self._closing = True
            self.changed.notify_all()
        self.tier.close()

    def _begin(self, keys: Sequence[Key], first: int, *, wait: bool) -> _Part | None:
        """Queue the next blocks to be read; None where there is no memory for any."""
        with self.changed:
            reads: list[Read] = []
            for key in keys[first : first + self._part_blocks]:
                slot = self._take_slot(wait=wait and not reads)
                if slot is None:
                    break
                reads.append(Read(self._entry(key, slot), self._frame(slot)))
            if not reads:
                return None
            part = _Part(range(first, first + len(reads)), reads)
            if not self.tier.read(reads, partial(self._answered, part)):
                self._answered(part, [False] * len(reads))
            return part

    def _finish(self, part: _Part, blocks: Sequence[memoryview], whole: list[bool]) -> None:
        """Wait for a part, and put what is whole of it where it belongs."""
        with self.changed:
            self._await(lambda: 0 if part.whole is not None else 1)
            answers = part.whole
        if answers is None:
            self._give_up(part)
            return
        for number, read, ok in zip(part.numbers, part.reads, answers, strict=True):
            if ok:
                copy_bytes(blocks[number], read.frame[HEADER_BYTES:])
                whole[number] = True
        with self.changed:
            self._give_back(part)

    def _give_up(self, part: _Part) -> None:
        """Want nothing of a part any more; its memory is reserved until its call returns."""
        with self.changed:
            part.given_up = True
            if part.whole is not None:
                self._give_back(part)

    def _answered(self, part: _Part, whole: list[bool]) -> None:
        part.whole = whole
        if part.given_up:
            self._give_back(part)
        self.changed.notify_all()

    def _written(self, key: Key, slot: Slot, pending: set[Key]) -> None:
        pending.discard(key)
        self._free.append(slot)
        self.changed.notify_all()

    def _give_back(self, part: _Part) -> None:
        self._free += [read.entry.slot for read in part.reads]
        self.changed.notify_all()

    def _take_slot(self, *, wait: bool) -> Slot | None:
        """Take a slot; the lock is held, and let go of while waiting."""
        if wait and not self._free:
            self.changed.wait_for(lambda: self._free or self._closing, self._patience_seconds)
        return self._free.pop() if self._free and not self._closing else None

    def _await(self, left: Callable[[], int]) -> None:
        """Wait until nothing is left, while it gets less within the deadline of a call."""
        while (before := left()) and not self._closing:
            began = time.monotonic()

            def moved(before: int = before) -> bool:
                return left() < before or self._closing

            if not self.changed.wait_for(moved, self._patience_seconds):
                log.warning(
                    "blocks.given_up",
                    tier=self.tier.name,
                    blocks=before,
                    seconds=round(time.monotonic() - began, 3),
                )
                self.tier.breaker.failed()
                return

    def _frame(self, slot: Slot) -> memoryview:
        return self._memory[slot.offset : slot.offset + HEADER_BYTES + self._block_bytes]

    def _entry(self, key: Key, slot: Slot) -> Entry:
        return Entry(Piece(key, PARENT, TOKEN, 0), slot, self.tier.name)
