"""Releases that engines have not acknowledged yet."""

from __future__ import annotations

from collections import OrderedDict, defaultdict

MAX_TOMBSTONES = 1 << 16
"""Kept at once; an engine that returns after the oldest of them were dropped
registers what it holds, and the pin is seen again and not lost sight of."""


class Tombstones:
    """By pin and engine, the version under which the pin was released."""

    def __init__(self) -> None:
        self._versions: OrderedDict[str, dict[str, int]] = OrderedDict()
        self._by_instance: defaultdict[str, set[str]] = defaultdict(set)

    def __len__(self) -> int:
        """Number of pins that somebody still has to let go of."""
        return len(self._versions)

    def bury(self, pin_id: str, instance_id: str, version: int) -> None:
        """An engine is to release a pin."""
        self._versions.setdefault(pin_id, {})[instance_id] = version
        self._by_instance[instance_id].add(pin_id)
        if len(self._versions) > MAX_TOMBSTONES:
            oldest, places = self._versions.popitem(last=False)
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

    def _forget(self, instance_id: str, pin_id: str) -> None:
        self._by_instance[instance_id].discard(pin_id)
        if not self._by_instance[instance_id]:
            del self._by_instance[instance_id]
