"""What a tier holds, what it weighs, and which of it may go."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from lmcache_core.api import EvictionPolicy
from lmcache_core.keys import Key

PARTS = 256
"""Keys are digests, so that their first byte makes parts of one size. In one table of
a million, growing and copying take many milliseconds of the engine's lock."""


class Residents:
    """Byte-exact accounting of one tier, its eviction order and its marks.

    The eviction policy holds a key from the first of its marks (ids of pins)
    to the last, or while it is held here, so that however much is pinned the
    next victim is found in O(1).

    Args:
        capacity_bytes: The tier's bound; 0 for a store that bounds itself.
        policy: The eviction order.

    Attributes:
        capacity_bytes: See above.
        used_bytes: Bytes of all keys.
        pinned_bytes: Bytes of the keys that carry a mark, each counted once.
        reserved_bytes: Bytes that pins keep for chunks still to come.
        record_bytes: Bytes in the tier's store that are no chunk's.
        pin_limit_bytes: What marks and reservations may take together.
    """

    def __init__(self, capacity_bytes: int, policy: EvictionPolicy) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self.pinned_bytes = 0
        self.reserved_bytes = 0
        self.record_bytes = 0
        self.pin_limit_bytes = capacity_bytes
        self._policy = policy
        self._sizes: tuple[dict[Key, int], ...] = tuple({} for _ in range(PARTS))
        self._count = 0
        self._marks: dict[Key, set[str]] = {}
        self._held: set[Key] = set()

    def __len__(self) -> int:
        """Number of keys."""
        return self._count

    def __contains__(self, key: Key) -> bool:
        """Whether the tier holds a key."""
        return key in self._sizes[key[0]]

    def __iter__(self) -> Iterator[Key]:
        """The keys, part by part."""
        return itertools.chain.from_iterable(self._sizes)

    def part(self, number: int) -> list[Key]:
        """The keys of one of the ``PARTS``."""
        return list(self._sizes[number])

    def size(self, key: Key) -> int:
        """Bytes of a key that is held, 0 of one that is not."""
        return self._sizes[key[0]].get(key, 0)

    def marks(self, key: Key) -> frozenset[str]:
        """Ids of the pins that mark a key."""
        return frozenset(self._marks.get(key, ()))

    def marked(self, key: Key) -> bool:
        """Whether any pin marks a key."""
        return key in self._marks

    def add(self, key: Key, nbytes: int) -> None:
        """Take a key that is not there."""
        self._sizes[key[0]][key] = nbytes
        self._count += 1
        self.used_bytes += nbytes
        self._policy.admit(key)

    def add_all(self, sizes: Mapping[Key, int]) -> None:
        """Take keys that are not there, in their order.

        Args:
            sizes: Bytes of each.
        """
        parts, admit = self._sizes, self._policy.admit
        for key, nbytes in sizes.items():
            parts[key[0]][key] = nbytes
            admit(key)
        self._count += len(sizes)
        self.used_bytes += sum(sizes.values())

    def discard(self, key: Key, *, evicted: bool = False) -> frozenset[str]:
        """Let a key go; return the marks it carried.

        Args:
            key: The key; nothing happens where it is not there.
            evicted: Whether it is the victim and goes to make room, which the
                policy may remember.
        """
        nbytes = self._sizes[key[0]].pop(key, None)
        if nbytes is None:
            return frozenset()
        self._count -= 1
        self.used_bytes -= nbytes
        self._held.discard(key)
        if evicted:
            self._policy.evict(key)
        else:
            self._policy.remove(key)
        marks = self._marks.pop(key, None)
        if marks is None:
            return frozenset()
        self.pinned_bytes -= nbytes
        return frozenset(marks)

    def resize(self, key: Key, nbytes: int) -> None:
        """Give a key that is there other bytes; its marks and its place in the order stay."""
        part = self._sizes[key[0]]
        change = nbytes - part[key]
        part[key] = nbytes
        self.used_bytes += change
        if key in self._marks:
            self.pinned_bytes += change

    def may_pin(self, nbytes: int) -> bool:
        """Whether pins may take so many bytes more; always where they take none."""
        if nbytes <= 0 or not self.capacity_bytes:
            return True
        return self.pinned_bytes + self.reserved_bytes + nbytes <= self.pin_limit_bytes

    def unmarked_size(self, key: Key) -> int:
        """Bytes that a first mark on a key would add to what is pinned."""
        return 0 if key in self._marks else self.size(key)

    def marks_among(self, key: Key, pin_ids: set[str]) -> set[str]:
        """Which of some pins mark a key, in time that goes by the fewer of the two."""
        marks = self._marks.get(key)
        return marks & pin_ids if marks else set()

    def touch(self, key: Key) -> None:
        """Note a use of a key."""
        self._policy.touch(key)

    def hold(self, key: Key) -> None:
        """Keep a key from eviction until :meth:`let_go`."""
        if key in self and key not in self._held:
            self._held.add(key)
            if key not in self._marks:
                self._policy.hold(key)

    def let_go(self, key: Key) -> None:
        """End :meth:`hold`."""
        if key in self._held:
            self._held.remove(key)
            if key not in self._marks:
                self._policy.release(key)

    def mark(self, key: Key, pin_id: str) -> None:
        """Put a pin's mark on a key that is there."""
        marks = self._marks.get(key)
        if marks is not None:
            marks.add(pin_id)
            return
        self._marks[key] = {pin_id}
        self.pinned_bytes += self._sizes[key[0]][key]
        if key not in self._held:
            self._policy.hold(key)

    def unmark(self, key: Key, pin_id: str) -> None:
        """Take a pin's mark from a key; nothing happens where there is none."""
        marks = self._marks.get(key)
        if marks is None:
            return
        marks.discard(pin_id)
        if not marks:
            del self._marks[key]
            self.pinned_bytes -= self._sizes[key[0]][key]
            if key not in self._held:
                self._policy.release(key)

    def victim(self) -> Key | None:
        """The key to evict next, or None when nothing may go."""
        return self._policy.victim()
