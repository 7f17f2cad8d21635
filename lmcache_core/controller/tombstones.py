"""Releases that engines have not acknowledged yet."""

from __future__ import annotations

from collections import OrderedDict, defaultdict

import msgspec

from lmcache_core.controller.journal import Journal
from lmcache_core.log import get_logger

log = get_logger(__name__)

MAX_TOMBSTONES = 1 << 16
"""Kept at once; an engine that returns after the oldest of them were dropped
registers what it holds, and the pin is seen again and not lost sight of."""


TABLE = "tombstones"


class Tombstone(msgspec.Struct, frozen=True):
    """A released pin as the ledger's file keeps it: by engine, the version."""

    versions: dict[str, int]


class Tombstones:
    """By pin and engine, the version under which the pin was released.

    Args:
        journal: Where they are kept.
    """

    def __init__(self, journal: Journal) -> None:
        self._versions: OrderedDict[str, dict[str, int]] = OrderedDict()
        self._by_instance: defaultdict[str, set[str]] = defaultdict(set)
        self._journal = journal
        journal.source(TABLE, self._record)
        for pin_id, stone in journal.read(TABLE, Tombstone):
            self._versions[pin_id] = dict(stone.versions)
            for instance_id in stone.versions:
                self._by_instance[instance_id].add(pin_id)

    def __len__(self) -> int:
        """Number of pins that somebody still has to let go of."""
        return len(self._versions)

    def bury(self, pin_id: str, instance_id: str, version: int) -> None:
        """An engine is to release a pin."""
        self._versions.setdefault(pin_id, {})[instance_id] = version
        self._by_instance[instance_id].add(pin_id)
        self._journal.note(TABLE, pin_id)
        if len(self._versions) > MAX_TOMBSTONES:
            oldest, places = self._versions.popitem(last=False)
            self._journal.note(TABLE, oldest)
            log.warning("tombstone.dropped", pin_id=oldest, instances=sorted(places))
            for name in places:
                self._forget(name, oldest)

    def version(self, pin_id: str, instance_id: str) -> int | None:
        """The version an engine is to release a pin under, or None."""
        return self._versions.get(pin_id, {}).get(instance_id)

    def highest(self, pin_id: str) -> int:
        """The highest version a pin was released under, or 0."""
        return max(self._versions.get(pin_id, {}).values(), default=0)

    def owed(self, instance_id: str) -> list[tuple[str, int]]:
        """What an engine is to release: pins and versions."""
        return [
            (pin_id, self._versions[pin_id][instance_id])
            for pin_id in sorted(self._by_instance.get(instance_id, ()))
        ]

    def acknowledge(self, pin_id: str, instance_id: str, version: int) -> None:
        """An engine has released a pin under a version; a later release still stands."""
        if self.version(pin_id, instance_id) == version:
            self.clear(pin_id, instance_id)

    def clear(self, pin_id: str, instance_id: str) -> None:
        """An engine is not to release a pin any more."""
        places = self._versions.get(pin_id, {})
        if places.pop(instance_id, None) is None:
            return
        if not places:
            del self._versions[pin_id]
        self._forget(instance_id, pin_id)
        # Lost, it is asked of the engine once more.
        self._journal.note(TABLE, pin_id, lazily=True)

    def _record(self, pin_id: str) -> Tombstone | None:
        versions = self._versions.get(pin_id)
        return None if versions is None else Tombstone(versions)

    def _forget(self, instance_id: str, pin_id: str) -> None:
        self._by_instance[instance_id].discard(pin_id)
        if not self._by_instance[instance_id]:
            del self._by_instance[instance_id]
