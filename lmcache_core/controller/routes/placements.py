"""Where a pin is asked for: in instances, or in all that serve a model."""

from __future__ import annotations

import msgspec

from lmcache_core.controller.directory import Directory
from lmcache_core.controller.failures import FieldError
from lmcache_core.controller.pin_row import NamespacePlace, Place
from lmcache_core.controller.routes import fields


class Placement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a pin's bytes are to stay: in an instance, or in all that serve a model."""

    location: fields.PinLocation
    instance_id: fields.InstanceId | None = None
    namespace: fields.Namespace | None = None


def instance_places(directory: Directory, placements: list[Placement]) -> tuple[Place, ...]:
    """The places that name an instance, in each of its data-parallel ranks.

    Raises:
        UnknownNameError: An instance is not known.
        FieldError: One is named with two locations, or a placement names not one thing.
    """
    places: set[Place] = set()
    for placement in placements:
        if (placement.instance_id is None) == (placement.namespace is None):
            message = "placements: name instance_id or namespace in each, and not both"
            raise FieldError(message)
        if placement.instance_id is not None:
            members = directory.members(placement.instance_id)
            places |= {Place(engine.instance_id, placement.location) for engine in members}
    if len({place.instance_id for place in places}) < len(places):
        message = "placements: one instance is named with two locations; use two pins"
        raise FieldError(message)
    return tuple(sorted(places))


def namespace_places(
    directory: Directory, placements: list[Placement]
) -> tuple[NamespacePlace, ...]:
    """The places that name a namespace.

    Raises:
        UnknownNameError: A namespace is not known.
        FieldError: One is named with two locations.
    """
    found = {
        NamespacePlace(directory.identity(placement.namespace), placement.location)
        for placement in placements
        if placement.namespace is not None
    }
    if len({wanted.identity for wanted in found}) < len(found):
        message = "placements: one namespace is named with two locations; use two pins"
        raise FieldError(message)
    return tuple(sorted(found))
