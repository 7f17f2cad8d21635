"""Where a pin is to be: the engines that its content means."""

from __future__ import annotations

from lmcache_core.controller.directory import Directory
from lmcache_core.controller.engine_record import EngineRecord
from lmcache_core.controller.pin_row import PinContent, PlaceState


def engines_of(directory: Directory, content: PinContent) -> dict[str, EngineRecord]:
    """Find the engines of a pin's places, and those of its namespaces that are live.

    Raises:
        UnknownNameError: An instance or a location is not known.
        EngineAwayError: An engine cannot be asked.
    """
    engines: dict[str, EngineRecord] = {}
    for place in content.places:
        engine = directory.get(place.instance_id)
        engine.check_pin_location(place.location)
        engines[place.instance_id] = engine
    for engine in engines.values():
        directory.live_members(engine.instance_id)
    for wanted in content.namespaces:
        serving = directory.serving(wanted.identity)
        having = [engine for engine in serving if wanted.location in engine.pin_locations]
        if serving and not having:
            serving[0].check_pin_location(wanted.location)
        engines |= {e.instance_id: e for e in having if e.instance_id not in engines}
    return engines


def places_of(content: PinContent, engines: dict[str, EngineRecord]) -> dict[str, PlaceState]:
    """A place in each engine, by what asks for it."""
    named = {place.instance_id: place.location for place in content.places}
    serving = {wanted.identity: wanted.location for wanted in content.namespaces}
    return {
        name: PlaceState(
            location=named.get(name) or serving[engine.identity],
            identity=engine.identity,
            joined=name not in named,
        )
        for name, engine in engines.items()
    }
