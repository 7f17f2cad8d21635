"""What a person or a program is told about the plugins that were found."""

from __future__ import annotations

from typing import Any

import msgspec

from lmcache_core.api import PluginSpec, StorageBackendSpec
from lmcache_core.plugins.record import PluginRecord
from lmcache_core.plugins.registry import PluginRegistry


class ConfigKey(msgspec.Struct, frozen=True, kw_only=True):
    """One key of a plugin's own section.

    Attributes:
        name: As it is written in the configuration.
        type: Its JSON schema.
        required: Whether it has no default.
    """

    name: str
    type: dict[str, Any]
    required: bool


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """One thing a plugin offers, or a plugin that offers nothing.

    Attributes:
        name: What the configuration calls it; the plugin's name where it
            could not be loaded.
        kind: What it is, for example ``storage backend``; empty if unknown.
        summary: One line about it.
        plugin: The entry point that brings it.
        distribution: The installed distribution.
        version: Its version.
        api: The plugin interface it was built for, or None if unknown.
        status: ``loaded``, ``blocked``, ``incompatible``, ``failed`` or
            ``shadowed``.
        reason: Why it is not loaded; else empty.
        capabilities: Of a storage backend, in lower case.
        configuration: Keys of its section.
    """

    name: str
    kind: str
    summary: str
    plugin: str
    distribution: str
    version: str
    api: str | None
    status: str
    reason: str
    capabilities: list[str]
    configuration: list[ConfigKey]


def list_plugins(registry: PluginRegistry) -> list[Offer]:
    """One row for each thing offered, and for each plugin that offers none."""
    return [_offer(record, spec) for record in registry.records for spec in record.specs or (None,)]


def configuration_keys(config: type[msgspec.Struct]) -> list[ConfigKey]:
    """The keys of a plugin's section, from its own type."""
    # A type of the plugin's own that has no schema is listed as anything at all.
    (ref,), components = msgspec.json.schema_components(
        [config], schema_hook=lambda odd: {"title": odd.__name__}, ref_template="{name}"
    )
    section = components[ref["$ref"]]
    required = section.get("required", [])
    return [
        ConfigKey(name=name, type=schema, required=name in required)
        for name, schema in section["properties"].items()
    ]


def _offer(record: PluginRecord, spec: PluginSpec[Any] | None) -> Offer:
    capabilities = spec.capabilities.names() if isinstance(spec, StorageBackendSpec) else []
    return Offer(
        name=spec.name if spec else record.name,
        kind=spec.kind if spec else "",
        summary=spec.summary if spec else "",
        plugin=record.name,
        distribution=record.distribution,
        version=record.version,
        api=record.api,
        status=record.status.value,
        reason=record.reason,
        capabilities=capabilities,
        configuration=configuration_keys(spec.config) if spec else [],
    )
