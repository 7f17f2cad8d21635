"""What a storage tier has, what it thinks of its store, and whom it tells."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import NamedTuple

from lmcache_core.api.frames import is_record
from lmcache_core.engine.chunks.residents import Residents
from lmcache_core.engine.chunks.sightings import Sightings
from lmcache_core.engine.storage.breaker import Breaker
from lmcache_core.engine.storage.frame_book import Facts, FrameBook
from lmcache_core.keys import Key

COUNTERS = (
    "open_failures",
    "put_frames",
    "put_failures",
    "put_skipped",
    "encode_failures",
    "read_frames",
    "read_failures",
    "recovered_frames",
    "missing_frames",
    "damaged_frames",
    "foreign_frames",
    "evictions",
    "asked_frames",
    "found_frames",
    "ask_failures",
    "admitted_frames",
    "refused_frames",
    "demoted_frames",
    "demotions_dropped",
    "recoded_frames",
    "recode_left_frames",
    "recode_failures",
    "came_frames",
    "gone_frames",
)
"""What is counted of a storage tier."""


MAX_FOREIGN = 1 << 16
"""Frames of others in a shared store that are remembered not to be asked for again."""


class Known(NamedTuple):
    """A frame that is in the store.

    Attributes:
        key: Its chunk's key.
        nbytes: Its length there.
        facts: What else is known of it.
        raw_bytes: Its length as it would lie in a slot, of one that was let
            go, where that is known.
    """

    key: Key
    nbytes: int
    facts: Facts
    raw_bytes: int | None = None


class Holdings:
    """The state that the threads of one storage tier share with the engine.

    Everything but ``lock`` and ``name`` is read and written with ``lock`` held.

    Args:
        name: The tier's name.
        residents: The tier's accounting.
        book: What is known of the frames.
        lock: The engine's lock.
        most_frames: How many are remembered, the one used longest ago being
            forgotten for another; None for no bound.

    Attributes:
        name: See above.
        residents: See above.
        book: See above.
        lock: See above.
        breaker: Whether the store is to be asked.
        counters: Running totals by name.
        on_admitted: Called with each key that is there from now on.
        on_evicted: Called with each key that has left and the marks it carried.
        on_evicting: Called without ``lock``, on the writing thread, with each
            frame that is found no more and about to be removed to make room.
    """

    def __init__(
        self,
        name: str,
        residents: Residents,
        book: FrameBook,
        lock: AbstractContextManager[object],
        *,
        most_frames: int | None = None,
    ) -> None:
        self.name = name
        self.residents = residents
        self.book = book
        self.lock = lock
        self._most_frames = most_frames
        self.breaker = Breaker()
        self.counters = dict.fromkeys(COUNTERS, 0)
        self._foreign = Sightings(MAX_FOREIGN)
        self.on_admitted: Callable[[Key], None] = lambda _key: None
        self.on_evicted: Callable[[Key, frozenset[str]], None] = lambda _key, _marks: None
        self.on_evicting: Callable[[Known], None] = lambda _known: None

    def take(self, known: Known) -> None:
        """Account for a frame that is there and was not."""
        self.residents.add(known.key, known.nbytes)
        self.book.keep(known.key, known.facts)
        self.on_admitted(known.key)
        if self._most_frames is not None and len(self.residents) > self._most_frames:
            self.forget_one()

    def take_kept(self, frames: Iterable[tuple[Key, int]]) -> int:
        """Account for frames that were there before us; return how many were not known.

        Args:
            frames: Keys and lengths, a bounded number.
        """
        residents = self.residents
        fresh = {key: nbytes for key, nbytes in frames if key not in residents}
        for key, nbytes in fresh.items():
            residents.add(key, nbytes)
            self.on_admitted(key)
        return len(fresh)

    def note_foreign(self, key: Key) -> None:
        """Remember that the store has a frame that this tier does not read, and will keep it."""
        self._foreign.see(key)

    def is_foreign(self, key: Key) -> bool:
        """Whether the store is known to have such a frame, or it would be a record."""
        return self._foreign.count(key) > 0 or is_record(key)

    def forget_one(self) -> bool:
        """Forget the frame that is first in the order of eviction; False where none may go."""
        key = self.residents.victim()
        if key is None:
            return False
        self.forget(key, evicted=True)
        return True

    def forget(self, key: Key, *, evicted: bool = False) -> None:
        """Account for a frame that has gone, if it was there.

        Args:
            key: Its chunk's key.
            evicted: Whether it was the victim and goes to make room.
        """
        if key in self.residents:
            self.book.forget(key)
            self.on_evicted(key, self.residents.discard(key, evicted=evicted))

    def let_go(self, key: Key, *, evicted: bool = False) -> Known:
        """Forget a frame that is there, and say what was known of it."""
        book = self.book
        known = Known(key, self.residents.size(key), book.facts(key), book.raw_bytes(key))
        self.forget(key, evicted=evicted)
        return known
