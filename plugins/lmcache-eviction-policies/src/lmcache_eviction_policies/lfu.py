"""LFU: what is used least goes first, and fame fades."""

from __future__ import annotations

from lmcache_core.api import EvictionPolicy
from lmcache_core.api.spec import EmptyConfig
from lmcache_core.keys import Key, Parts, make_parts
from lmcache_eviction_policies.by_place import KeysByPlace
from lmcache_eviction_policies.places import FAN_BITS, LEVELS

USE_BITS = LEVELS * FAN_BITS
"""A place is a rank and behind it the number of the use that gave it."""


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
        self._next_use = 0
        self._uses: Parts[Key, int] = make_parts()
        self._places: Parts[Key, int] = make_parts()
        self._line = KeysByPlace(2 * LEVELS)

    def admit(self, key: Key) -> None:
        """Take a key with one use."""
        self._uses[key[0]][key] = 1
        self._line.put(self._place(key), key)

    def touch(self, key: Key) -> None:
        """Count a use."""
        uses = self._uses[key[0]]
        if key not in uses:
            return
        uses[key] += 1
        place = self._places[key[0]][key]
        if place in self._line:
            self._line.take(place)
            self._line.put(self._place(key), key)
        else:
            self._place(key)

    def remove(self, key: Key) -> None:
        """Forget a key and its uses."""
        if self._uses[key[0]].pop(key, None) is not None:
            place = self._places[key[0]].pop(key)
            if place in self._line:
                self._line.take(place)

    def evict(self, key: Key) -> None:
        """Forget the victim, and set the age by it."""
        self._age = self._places[key[0]][key] >> USE_BITS
        self.remove(key)

    def hold(self, key: Key) -> None:
        """Keep a key's place for it."""
        self._line.take(self._places[key[0]][key])

    def release(self, key: Key) -> None:
        """Give a key its place back."""
        self._line.put(self._places[key[0]][key], key)

    def victim(self) -> Key | None:
        """The key of the lowest rank that was used longest ago."""
        return self._line.key(self._line.first()) if self._line else None

    def __len__(self) -> int:
        return len(self._line)

    def _place(self, key: Key) -> int:
        """Give a key the place of its rank, behind all that have the same; return it."""
        rank = self._age + self._uses[key[0]][key]
        place = self._places[key[0]][key] = rank << USE_BITS | self._next_use
        self._next_use += 1
        return place
