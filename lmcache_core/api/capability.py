"""What a backend says it can do beyond the least every backend must."""

from __future__ import annotations

import enum


class Capability(enum.Flag):
    """Capabilities of a storage backend; the tier above asks, never the name.

    Declaring one makes the kit's checks of it obligatory.
    """

    NONE = 0
    DURABLE = enum.auto()
    """What ``sync`` has returned for survives the process and the machine."""
    SHARED = enum.auto()
    """Other engines read and write the same bytes; a local index is a hint."""
    SELF_EVICTING = enum.auto()
    """The store may drop frames on its own."""
    SYNC = enum.auto()
    """``sync`` is implemented."""
    PROTECT = enum.auto()
    """``protect`` is implemented: named keys survive the store's own eviction."""
    SCAN = enum.auto()
    """``scan`` is implemented."""
    USAGE = enum.auto()
    """``usage`` is implemented."""
    REPLACE = enum.auto()
    """``replace`` is implemented: a frame can take the place of another of its key."""

    def names(self) -> list[str]:
        """Lower-case names of the flags that are set, for tables and JSON."""
        return [flag.name.lower() for flag in self if flag.name]
