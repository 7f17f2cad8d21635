"""The contract of an eviction policy."""

from __future__ import annotations

from abc import ABC, abstractmethod

from lmcache_core.keys import Key


class EvictionPolicy(ABC):
    """Decides which entry of a tier goes next.

    *Guaranteed*: one caller at a time; a key is admitted at most once until
    it is removed; pinned and leased entries are removed while they are, so
    that a policy never sees one and pins cost it nothing.

    *Must*: do every method in O(1).
    """

    @abstractmethod
    def admit(self, key: Key) -> None:
        """Take a key that may be evicted from now on."""

    @abstractmethod
    def touch(self, key: Key) -> None:
        """Note a use of a key; unknown keys are ignored."""

    @abstractmethod
    def remove(self, key: Key) -> None:
        """Forget a key; unknown keys are ignored."""

    @abstractmethod
    def victim(self) -> Key | None:
        """Name the key to evict next without removing it; None when empty."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of keys that may be evicted."""
