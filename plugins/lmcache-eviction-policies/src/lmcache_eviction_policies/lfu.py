"""LFU: what is used least goes first, and fame fades."""

from __future__ import annotations

from lmcache_core.api import EvictionPolicy
from lmcache_core.api.spec import EmptyConfig
from lmcache_core.keys import Key
from lmcache_eviction_policies.line import Line
from lmcache_eviction_policies.places import PlaceSet


class LFU(EvictionPolicy):
    """Evicts the key with the lowest rank: its uses, and the age it was last used at.

    The age is the rank of the last victim. It rises as keys are evicted, so
    that one with many uses long ago goes before one with few today; with
    plain counts, last week's prompts would never leave. This is LFU with
    dynamic ageing. Of equal ranks the one used longest ago goes.

    Args:
        config: There is nothing to configure.
    """

    def __init__(self, config: EmptyConfig | None = None) -> None:
        del config
        self._age = 0
        self._uses: dict[Key, int] = {}
        self._rank: dict[Key, int] = {}
        self._lines: dict[int, Line] = {}
        self._ranks = PlaceSet()
        self._evictable = 0

    def admit(self, key: Key) -> None:
        """Take a key with one use."""
        self._uses[key] = 1
        self._enter(key, held=False)

    def touch(self, key: Key) -> None:
        """Count a use."""
        uses = self._uses.get(key)
        if uses is not None:
            held = self._leave(key)
            self._uses[key] = uses + 1
            self._enter(key, held=held)

    def remove(self, key: Key) -> None:
        """Forget a key and its uses."""
        if self._uses.pop(key, None) is not None:
            self._leave(key)

    def evict(self, key: Key) -> None:
        """Forget the victim, and set the age by it."""
        self._age = self._rank[key]
        self.remove(key)

    def hold(self, key: Key) -> None:
        """Keep a key's place for it."""
        rank = self._rank[key]
        line = self._lines[rank]
        line.hold(key)
        self._evictable -= 1
        if not len(line):
            self._ranks.remove(rank)

    def release(self, key: Key) -> None:
        """Give a key its place back."""
        rank = self._rank[key]
        line = self._lines[rank]
        if not len(line):
            self._ranks.add(rank)
        line.release(key)
        self._evictable += 1

    def victim(self) -> Key | None:
        """The first key of the lowest rank."""
        return self._lines[self._ranks.first()].first() if self._ranks else None

    def __len__(self) -> int:
        return self._evictable

    def _enter(self, key: Key, *, held: bool) -> None:
        rank = self._rank[key] = self._age + self._uses[key]
        line = self._lines.get(rank)
        if line is None:
            line = self._lines[rank] = Line()
        if not held:
            self._evictable += 1
            if not len(line):
                self._ranks.add(rank)
        line.append(key, held=held)

    def _leave(self, key: Key) -> bool:
        """Take a key out of the line of its rank; whether it was held."""
        rank = self._rank.pop(key)
        line = self._lines[rank]
        held = line.discard(key)
        if not held:
            self._evictable -= 1
            if not len(line):
                self._ranks.remove(rank)
        if line.empty:
            del self._lines[rank]
        return held
