"""What became of each plugin that was found."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from lmcache_core.api import PluginSpec


class PluginStatus(enum.Enum):
    """The outcome of loading a plugin."""

    LOADED = "loaded"
    BLOCKED = "blocked"
    """Named in ``LMCACHE_PLUGINS_BLOCKED``."""
    INCOMPATIBLE = "incompatible"
    """Built for an interface that this core does not have."""
    FAILED = "failed"
    """Its import or one of its hooks raised."""
    SHADOWED = "shadowed"
    """A name of its was taken by a plugin loaded before it."""


class PluginRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One plugin, loaded or not.

    Attributes:
        name: Its entry point's name.
        module: The module the entry point names.
        distribution: The installed distribution that brought it.
        version: That distribution's version.
        api: The interface version it declares, or None where unknown.
        status: What became of it.
        reason: Why, where it was not loaded; else empty.
        specs: What it offers.
    """

    name: str
    module: str
    distribution: str
    version: str
    api: str | None
    status: PluginStatus
    reason: str = ""
    specs: tuple[PluginSpec[Any], ...] = ()
