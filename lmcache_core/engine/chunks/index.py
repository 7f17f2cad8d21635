"""Finding the longest cached prefix of a token sequence, to the token."""

from __future__ import annotations

from operator import attrgetter
from typing import NamedTuple

from sortedcontainers import SortedKeyList

from lmcache_core.engine.chunks.entry import Entry
from lmcache_core.keys import TOKEN_BYTES, Key, KeyChain, Parts, make_parts

_token_bytes = attrgetter("token_bytes")


class Found(NamedTuple):
    """The longest prefix an index can answer for.

    Attributes:
        entries: The chunks that hold it, in order; the last may hold more.
        tokens: Its length.
    """

    entries: list[Entry]
    tokens: int


class PrefixIndex:
    """Entries by key and children by parent.

    Of the children of one parent none is a prefix of another: a longer entry
    supersedes the tail it covers. Children are kept in the order of their
    packed token ids, where the child that agrees longest with a query is a
    neighbour of the query, so that a look-up costs O(log n) however many
    prompts begin alike.
    """

    def __init__(self) -> None:
        self._count = 0
        self._entries: Parts[Key, Entry] = make_parts()
        # Most chunks have one child; a list for each would cost more memory
        # than everything else that is kept of the chunk.
        self._children: Parts[Key, Entry | SortedKeyList[Entry, bytes]] = make_parts()

    def __len__(self) -> int:
        """Number of entries."""
        return self._count

    def __contains__(self, key: Key) -> bool:
        """Whether an entry of this key can be found."""
        return key in self._entries[key[0]]

    def __getitem__(self, key: Key) -> Entry:
        """The entry of a key that is there."""
        return self._entries[key[0]][key]

    def get(self, key: Key) -> Entry | None:
        """The entry of a key, or None."""
        return self._entries[key[0]].get(key)

    def find(self, chain: KeyChain, limit: int, *, staged: bool = True) -> Found:
        """Find the longest prefix of at most ``limit`` tokens of a chain.

        Args:
            chain: The sequence.
            limit: See above.
            staged: Whether chunks count that live on in the staging part only.
        """
        found: list[Entry] = []
        size = chain.chunk_size
        entries = self._entries
        for key in chain.keys[: limit // size]:
            entry = entries[key[0]].get(key)
            if entry is None or (entry.staged and not staged):
                break
            found.append(entry)
        index = len(found)
        tokens = index * size
        rest = min(limit - tokens, size)
        if rest > 0:
            child, agreed = self.best_child(
                chain.parent(index), chain.token_bytes(index, rest), staged=staged
            )
            if child is not None and agreed:
                found.append(child)
                tokens += agreed
        return Found(found, tokens)

    def best_child(
        self, parent: Key, token_bytes: bytes, *, staged: bool = True
    ) -> tuple[Entry | None, int]:
        """Find the child of a parent that agrees longest with some tokens.

        Args:
            parent: Key of the parent.
            token_bytes: The tokens, packed.
            staged: As of :meth:`find`.

        Returns:
            The child and the number of tokens it agrees for, or (None, 0).
        """
        children = self._children[parent[0]].get(parent)
        if children is None:
            return None, 0
        if isinstance(children, Entry):
            if children.staged and not staged:
                return None, 0
            return children, _agreement(children.token_bytes, token_bytes)
        best, agreed = None, -1
        place = children.bisect_key_left(token_bytes)
        neighbours = children[max(0, place - 1) : place + 1]
        if not staged:
            neighbours = _nearest_resident(children, place)
        for candidate in neighbours:
            length = _agreement(candidate.token_bytes, token_bytes)
            if length > agreed:
                best, agreed = candidate, length
        return best, max(0, agreed)

    def covered_tail(self, parent: Key, token_bytes: bytes) -> Entry | None:
        """Find the child that is a true prefix of ``token_bytes``; there is at most one."""
        children = self._children[parent[0]].get(parent)
        if children is None:
            return None
        if isinstance(children, Entry):
            before = children
        else:
            place = children.bisect_key_left(token_bytes)
            if place == 0:
                return None
            before = children[place - 1]
        covered = before.token_bytes
        return (
            before if len(covered) < len(token_bytes) and token_bytes.startswith(covered) else None
        )

    def add(self, entry: Entry) -> None:
        """Add an entry that is not there; the caller has dropped what it covers."""
        self._entries[entry.key[0]][entry.key] = entry
        self._count += 1
        families = self._children[entry.parent[0]]
        children = families.get(entry.parent)
        if children is None:
            families[entry.parent] = entry
        elif isinstance(children, Entry):
            families[entry.parent] = SortedKeyList([children, entry], key=_token_bytes)
        else:
            children.add(entry)

    def remove(self, entry: Entry) -> None:
        """Remove an entry that is there."""
        del self._entries[entry.key[0]][entry.key]
        self._count -= 1
        families = self._children[entry.parent[0]]
        children = families[entry.parent]
        if isinstance(children, Entry):
            del families[entry.parent]
            return
        children.remove(entry)
        if len(children) == 1:
            families[entry.parent] = children[0]


def _nearest_resident(children: SortedKeyList[Entry, bytes], place: int) -> list[Entry]:
    """The children nearest to a place on both sides that are not only staged.

    The further from the place, the less they agree with what belongs there.
    """
    before, behind = children.islice(0, place, reverse=True), children.islice(place)
    found = (next((one for one in side if not one.staged), None) for side in (before, behind))
    return [one for one in found if one is not None]


def _agreement(left: bytes, right: bytes) -> int:
    """Number of leading tokens two packed sequences have in common."""
    low, high = 0, min(len(left), len(right)) // TOKEN_BYTES
    if left[: high * TOKEN_BYTES] == right[: high * TOKEN_BYTES]:
        return high
    while low + 1 < high:
        middle = (low + high) // 2
        if left[: middle * TOKEN_BYTES] == right[: middle * TOKEN_BYTES]:
            low = middle
        else:
            high = middle
    return low
