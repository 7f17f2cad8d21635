"""The orders that one line keeps: LRU, MRU and FIFO."""

from __future__ import annotations

from lmcache_core.api import EvictionPolicy
from lmcache_core.api.spec import EmptyConfig
from lmcache_core.keys import Key
from lmcache_eviction_policies.line import Line


class FIFO(EvictionPolicy):
    """Evicts the key that was admitted first, used or not.

    Args:
        config: There is nothing to configure.
    """

    def __init__(self, config: EmptyConfig | None = None) -> None:
        del config
        self._line = Line()

    def admit(self, key: Key) -> None:
        """Put a key at the end."""
        self._line.append(key)

    def touch(self, key: Key) -> None:
        """Do nothing: a use changes no place."""

    def remove(self, key: Key) -> None:
        """Forget a key."""
        self._line.discard(key)

    def hold(self, key: Key) -> None:
        """Keep a key's place for it."""
        self._line.hold(key)

    def release(self, key: Key) -> None:
        """Give a key its place back."""
        self._line.release(key)

    def victim(self) -> Key | None:
        """The key that stands first."""
        return self._line.first()

    def __len__(self) -> int:
        return len(self._line)


class LRU(FIFO):
    """Evicts the key whose last use is longest ago."""

    def touch(self, key: Key) -> None:
        """Put a key at the end."""
        self._line.renew(key)


class MRU(LRU):
    """Evicts the key that was used last.

    Where a set of prompts larger than the cache is read over and over, LRU
    evicts each just before it is wanted; this keeps a part of them.
    """

    def victim(self) -> Key | None:
        """The key that stands last."""
        return self._line.last()
