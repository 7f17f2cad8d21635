"""The JSON schema of an engine's configuration, for editors and checkers."""

from __future__ import annotations

from typing import Any

import msgspec

from lmcache_core.config import incumbent
from lmcache_core.config.section import EngineSection


def engine_schema() -> dict[str, Any]:
    """Make the schema out of the types that the reader itself uses.

    Keys that are ignored are in it as deprecated, so that a taken-over file
    validates; keys that are refused are not.
    """
    _, components = msgspec.json.schema_components([EngineSection], ref_template="#/$defs/{name}")
    section: dict[str, Any] = components.pop("EngineSection")
    for key, reason in sorted(incumbent.IGNORED.items()):
        section["properties"][key] = {"deprecated": True, "description": f"Ignored: {reason}."}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **section,
        "title": "lmcache-core engine configuration",
        "$defs": components,
    }
