"""What a tier holds, what it weighs, and which of it may go."""

from __future__ import annotations

from collections.abc import Iterator

from lmcache_core.api import EvictionPolicy
from lmcache_core.engine.chunks.roster import Roster
from lmcache_core.keys import KEY_BYTES, Key, Parts, make_parts


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
        resizes: How often a key was given other bytes.
        pin_limit_bytes: What marks and reservations may take together.
        touch: Notes a use of a key; the policy's own, as is ``victim``.
        victim: Names the key to evict next, or None when nothing may go.
    """

    def __init__(self, capacity_bytes: int, policy: EvictionPolicy) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self.pinned_bytes = 0
        self.reserved_bytes = 0
        self.record_bytes = 0
        self.resizes = 0
        self.pin_limit_bytes = capacity_bytes
        self.touch = policy.touch
        self.victim = policy.victim
        self._policy = policy
        self._roster = Roster()
        self._places: Parts[Key, int] = make_parts()
        # Nearly all that is marked has one mark, and a set takes 200 bytes.
        self._marks: Parts[Key, str | set[str]] = make_parts()
        self._held: Parts[Key, None] = make_parts()

    def __len__(self) -> int:
        """Number of keys."""
        return len(self._roster)

    def __contains__(self, key: Key) -> bool:
        """Whether the tier holds a key."""
        return key in self._places[key[0]]

    def __iter__(self) -> Iterator[Key]:
        """The keys, in no order."""
        packed = self._roster.packed(0, len(self))
        return (packed[at : at + KEY_BYTES] for at in range(0, len(packed), KEY_BYTES))

    def packed_keys(self, before: int, count: int) -> tuple[bytes, int]:
        """Some keys, for who asks again and again, from behind, until all have been seen.

        What goes makes room for the last, so that a key is not passed over
        whatever comes and goes between two calls; it may be seen twice. Those
        that come meanwhile are not seen.

        Args:
            before: What the call before has returned; ``len`` at first.
            count: How many keys at most.

        Returns:
            The keys, 32 bytes each, and where to go on; 0 at the end.
        """
        before = min(before, len(self))
        start = max(0, before - count)
        return self._roster.packed(start, before), start

    def size(self, key: Key) -> int:
        """Bytes of a key that is held, 0 of one that is not."""
        place = self._places[key[0]].get(key)
        return 0 if place is None else self._roster.nbytes(place)

    def marks(self, key: Key) -> frozenset[str]:
        """Ids of the pins that mark a key."""
        return frozenset(_marks(self._marks[key[0]].get(key)))

    def marked(self, key: Key) -> bool:
        """Whether any pin marks a key."""
        return key in self._marks[key[0]]

    def add(self, key: Key, nbytes: int) -> None:
        """Take a key that is not there."""
        self._places[key[0]][key] = self._roster.append(key, nbytes)
        self.used_bytes += nbytes
        self._policy.admit(key)

    def discard(self, key: Key, *, evicted: bool = False) -> frozenset[str]:
        """Let a key go; return the marks it carried.

        Args:
            key: The key; nothing happens where it is not there.
            evicted: Whether it is the victim and goes to make room, which the
                policy may remember.
        """
        part = key[0]
        place = self._places[part].pop(key, None)
        if place is None:
            return frozenset()
        nbytes, moved = self._roster.take_out(place)
        if moved is not None:
            self._places[moved[0]][moved] = place
        self.used_bytes -= nbytes
        self._held[part].pop(key, None)
        if evicted:
            self._policy.evict(key)
        else:
            self._policy.remove(key)
        marks = self._marks[part].pop(key, None)
        if marks is None:
            return frozenset()
        self.pinned_bytes -= nbytes
        return frozenset(_marks(marks))

    def resize(self, key: Key, nbytes: int) -> None:
        """Give a key that is there other bytes; its marks and its place in the order stay."""
        place = self._places[key[0]][key]
        change = nbytes - self._roster.nbytes(place)
        self._roster.resize(place, nbytes)
        self.resizes += 1
        self.used_bytes += change
        if self.marked(key):
            self.pinned_bytes += change

    def may_pin(self, nbytes: int) -> bool:
        """Whether pins may take so many bytes more; always where they take none."""
        if nbytes <= 0 or not self.capacity_bytes:
            return True
        return self.pinned_bytes + self.reserved_bytes + nbytes <= self.pin_limit_bytes

    def unmarked_size(self, key: Key) -> int:
        """Bytes that a first mark on a key would add to what is pinned."""
        return 0 if self.marked(key) else self.size(key)

    def marks_among(self, key: Key, pin_ids: set[str]) -> set[str]:
        """Which of some pins mark a key, in time that goes by the fewer of the two."""
        return _marks(self._marks[key[0]].get(key)) & pin_ids

    def hold(self, key: Key) -> None:
        """Keep a key from eviction until :meth:`let_go`."""
        held = self._held[key[0]]
        if key in self and key not in held:
            held[key] = None
            if not self.marked(key):
                self._policy.hold(key)

    def let_go(self, key: Key) -> None:
        """End :meth:`hold`."""
        held = self._held[key[0]]
        if key in held:
            del held[key]
            if not self.marked(key):
                self._policy.release(key)

    def mark(self, key: Key, pin_id: str) -> None:
        """Put a pin's mark on a key that is there."""
        marked = self._marks[key[0]]
        marks = marked.get(key)
        if marks is None:
            marked[key] = pin_id
            self.pinned_bytes += self.size(key)
            if key not in self._held[key[0]]:
                self._policy.hold(key)
        elif isinstance(marks, set):
            marks.add(pin_id)
        elif marks != pin_id:
            marked[key] = {marks, pin_id}

    def unmark(self, key: Key, pin_id: str) -> None:
        """Take a pin's mark from a key; nothing happens where there is none."""
        marked = self._marks[key[0]]
        marks = marked.get(key)
        if isinstance(marks, set):
            marks.discard(pin_id)
            if len(marks) == 1:
                marked[key] = marks.pop()
        elif marks == pin_id:
            del marked[key]
            self.pinned_bytes -= self.size(key)
            if key not in self._held[key[0]]:
                self._policy.release(key)


def _marks(marks: str | set[str] | None) -> set[str]:
    """One mark or several as a set."""
    if marks is None:
        return set()
    return marks if isinstance(marks, set) else {marks}
