"""Eviction orders that a dict keeps: it remembers the order of its keys.

An entry leaves the policy while it is leased and comes back as just used, so
orders that need an entry's whole history (FIFO, LFU) are not among them.
"""

from __future__ import annotations

from lmcache_core.api import EvictionPolicy
from lmcache_core.api.spec import EmptyConfig
from lmcache_core.keys import Key


class LRU(EvictionPolicy):
    """Evicts the key whose last use is longest ago.

    Args:
        config: There is nothing to configure.
    """

    def __init__(self, config: EmptyConfig | None = None) -> None:
        del config
        self._keys: dict[Key, None] = {}

    def admit(self, key: Key) -> None:
        """Take a key that may be evicted from now on; it counts as just used."""
        self._keys[key] = None

    def touch(self, key: Key) -> None:
        """Note a use of a key; unknown keys are ignored."""
        if key in self._keys:
            del self._keys[key]
            self._keys[key] = None

    def remove(self, key: Key) -> None:
        """Forget a key; unknown keys are ignored."""
        self._keys.pop(key, None)

    def victim(self) -> Key | None:
        """The key used longest ago, or None when empty."""
        return next(iter(self._keys), None)

    def __len__(self) -> int:
        return len(self._keys)


class MRU(LRU):
    """Evicts the key that was used last.

    Where a set of prompts larger than the cache is read over and over, LRU
    evicts each just before it is wanted; this keeps a part of them.
    """

    def victim(self) -> Key | None:
        """The key used last, or None when empty."""
        return next(reversed(self._keys), None)
