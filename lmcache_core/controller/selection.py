"""Which pins a request is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from lmcache_core.api.pins import PinState
from lmcache_core.controller.pin_row import PinRow, PlaceState
from lmcache_core.controller.ranks import means


class Selection(NamedTuple):
    """What all must hold of a pin; None and nothing hold of every pin.

    Attributes:
        owner: Whose it is.
        instance_id: Where it has a placement, or in one of its data-parallel ranks.
        location: The tier of a placement.
        identity: The namespace that a placement is in, or that it is for.
        state: How it stands.
        labels: Labels that it has.
    """

    owner: str | None = None
    instance_id: str | None = None
    location: str | None = None
    identity: bytes | None = None
    state: PinState | None = None
    labels: Mapping[str, str] = {}

    def matches(self, row: PinRow) -> bool:
        """Whether a pin is meant."""
        content = row.content
        return (
            self.owner in (None, content.owner)
            and (self.instance_id is None or row.is_in(self.instance_id))
            and (
                self.location is None
                or any(p.location == self.location for p in row.places.values())
            )
            and (self.identity is None or self._is_in_namespace(row))
            and self.state in (None, row.state)
            and self.labels.items() <= content.labels.items()
        )

    def places(self, row: PinRow) -> dict[str, PlaceState]:
        """The placements of a pin that are meant, by engine."""
        return {
            name: place
            for name, place in row.present.items()
            if (self.instance_id is None or means(self.instance_id, name))
            and self.location in (None, place.location)
            and self.identity in (None, place.identity)
        }

    def _is_in_namespace(self, row: PinRow) -> bool:
        named = {wanted.identity for wanted in row.content.namespaces}
        return self.identity in named | {place.identity for place in row.places.values()}
