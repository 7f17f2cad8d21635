"""The contract of an eviction policy."""

from __future__ import annotations

from abc import ABC, abstractmethod

from lmcache_core.api.deprecation import deprecated_default
from lmcache_core.keys import Key


class EvictionPolicy(ABC):
    """Decides which entry of a tier goes next.

    A key is *known* from ``admit`` until ``remove`` or ``evict``. In between
    it may be *held*, by pins or by a lease that came in the way of its
    eviction. A held key is no victim and is not counted; that it was held
    must not show afterwards: once released it stands where it would stand
    had it never been held, and uses meanwhile count.

    *Guaranteed*: one caller at a time. ``admit`` comes only for keys that are
    not known, ``hold`` for known ones that are not held, ``release`` for held
    ones, ``evict`` for the one that ``victim`` has just named.

    *Must*: do every method in O(1), amortised at most, whatever is held; grow
    with what is known, by a constant factor.
    """

    @abstractmethod
    def admit(self, key: Key) -> None:
        """Take a key that may be evicted from now on.

        *Guaranteed*: the key is not known; it may have been before.
        """

    @abstractmethod
    def touch(self, key: Key) -> None:
        """Note a use of a key, held or not.

        *Must*: ignore unknown keys.
        """

    @abstractmethod
    def remove(self, key: Key) -> None:
        """Forget a key, held or not, and that it was here.

        *Must*: ignore unknown keys.

        It was dropped by an operator, lost by its store, or another took its
        place, which says nothing of how useful it is.
        """

    @abstractmethod
    def victim(self) -> Key | None:
        """Name the key to evict next without removing it; None when there is none.

        *Must*: name the same key again where nothing was called in between.
        """

    @abstractmethod
    def __len__(self) -> int:
        """Number of keys that may be evicted.

        *Must not*: count held keys.
        """

    def evict(self, key: Key) -> None:
        """Take out the victim, which goes to make room.

        *Guaranteed*: ``victim`` has just named it.

        A policy may remember that the key was here, within a bound, to know
        it when it is admitted again. By default it is removed.
        """
        self.remove(key)

    @deprecated_default(
        "0.2", "implement it, for an order that goes by history; inherited until 0.3"
    )
    def hold(self, key: Key) -> None:
        """Keep a key from being a victim until it is released.

        *Guaranteed*: the key is known and not held.

        By default it is removed.
        """
        self.remove(key)

    @deprecated_default(
        "0.2", "implement it, for an order that goes by history; inherited until 0.3"
    )
    def release(self, key: Key) -> None:
        """Let a held key be a victim again.

        *Guaranteed*: the key is held.

        By default it is admitted, which makes it a new one: an order that
        goes by a key's history has to implement both.
        """
        self.admit(key)
