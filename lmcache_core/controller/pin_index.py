"""Pins in memory, found by id, by engine and by namespace."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TypeVar

from sortedcontainers import SortedDict

from lmcache_core.controller.pin_row import PinRow, PlaceState

KeyT = TypeVar("KeyT")


class PinIndex:
    """Rows by id, and by what asks for them.

    A place is unsettled while its engine has to be asked for the pin.

    Attributes:
        nbytes: Bytes of all their content.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self._rows: SortedDict[str, PinRow] = SortedDict()
        self._by_instance: defaultdict[str, set[str]] = defaultdict(set)
        self._by_namespace: defaultdict[bytes, set[str]] = defaultdict(set)
        self._unsettled: defaultdict[str, set[str]] = defaultdict(set)

    def __len__(self) -> int:
        """Number of pins."""
        return len(self._rows)

    def __getitem__(self, pin_id: str) -> PinRow:
        """A pin that is here."""
        return self._rows[pin_id]

    def __iter__(self) -> Iterator[PinRow]:
        """All pins by id."""
        return iter(self._rows.values())

    def get(self, pin_id: str) -> PinRow | None:
        """A pin, or None."""
        return self._rows.get(pin_id)

    def after(self, pin_id: str) -> Iterator[PinRow]:
        """Pins in the order of their ids, from the one after ``pin_id`` on."""
        for found in self._rows.irange(minimum=pin_id, inclusive=(False, True)):
            yield self._rows[found]

    def at(self, instance_id: str) -> list[PinRow]:
        """The pins that have a place in an engine."""
        return self._sorted(self._by_instance.get(instance_id, ()))

    def of_namespace(self, identity: bytes) -> list[PinRow]:
        """The pins that are asked for wherever a namespace is served."""
        return self._sorted(self._by_namespace.get(identity, ()))

    def unsettled(self, instance_id: str) -> list[PinRow]:
        """The pins that an engine has to be asked for."""
        return self._sorted(self._unsettled.get(instance_id, ()))

    def add(self, row: PinRow) -> None:
        """Take in a pin; of one that has not ended all places are unsettled."""
        self._rows[row.pin_id] = row
        self.nbytes += row.content.nbytes
        for wanted in row.content.namespaces:
            self._by_namespace[wanted.identity].add(row.pin_id)
        for instance_id in row.places:
            self._by_instance[instance_id].add(row.pin_id)
            if not row.ended:
                self._unsettled[instance_id].add(row.pin_id)

    def drop(self, row: PinRow) -> None:
        """Forget a pin."""
        del self._rows[row.pin_id]
        self.nbytes -= row.content.nbytes
        for instance_id in row.places:
            self._forget(instance_id, row.pin_id)
        for wanted in row.content.namespaces:
            _discard(self._by_namespace, wanted.identity, row.pin_id)

    def add_place(self, row: PinRow, instance_id: str, place: PlaceState) -> None:
        """Give a pin a place in another engine, unsettled."""
        row.places[instance_id] = place
        self._by_instance[instance_id].add(row.pin_id)
        self.unsettle(instance_id, row.pin_id)

    def drop_place(self, row: PinRow, instance_id: str) -> None:
        """Take a pin's place in an engine."""
        del row.places[instance_id]
        self._forget(instance_id, row.pin_id)

    def unsettle(self, instance_id: str, pin_id: str) -> None:
        """An engine has to be asked for a pin."""
        self._unsettled[instance_id].add(pin_id)

    def settle(self, instance_id: str, pin_id: str) -> None:
        """An engine has not to be asked for a pin any more."""
        _discard(self._unsettled, instance_id, pin_id)

    def _forget(self, instance_id: str, pin_id: str) -> None:
        self.settle(instance_id, pin_id)
        _discard(self._by_instance, instance_id, pin_id)

    def _sorted(self, pin_ids: set[str] | tuple[()]) -> list[PinRow]:
        return [self._rows[pin_id] for pin_id in sorted(pin_ids)]


def _discard(sets: defaultdict[KeyT, set[str]], key: KeyT, pin_id: str) -> None:
    """Take a pin out of a set, and the set away once it is empty."""
    found = sets[key]
    found.discard(pin_id)
    if not found:
        del sets[key]
