"""What a person or a program is told about the plugins that were found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from lmcache_core.api import PluginSpec, SerdeSpec, StorageBackendSpec
from lmcache_core.errors import UnknownNameError
from lmcache_core.plugins.record import PluginRecord
from lmcache_core.plugins.registry import INSTALL_HINTS, PluginRegistry


class ConfigKey(msgspec.Struct, frozen=True, kw_only=True):
    """One key of a plugin's own section.

    Attributes:
        name: As it is written in the configuration.
        type: Its JSON schema, with its default and its description.
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
        capabilities: Of a storage backend, in lower case; of a serde that does
            ``authenticates``.
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


def find_offers(registry: PluginRegistry, name: str) -> list[Offer]:
    """All that goes by a name: one thing offered, a plugin, or a distribution.

    Args:
        registry: Where to look.
        name: In any case; of a distribution with ``-`` or ``_``.

    Raises:
        UnknownNameError: Nothing does; it says what is there, and what to
            install where the name is known.
    """
    offers = list_plugins(registry)
    wanted = _plain(name)
    found = [
        offer
        for offer in offers
        if wanted in (_plain(offer.name), _plain(offer.plugin), _plain(offer.distribution))
    ]
    if found:
        return found
    brings = {_plain(known): distribution for known, distribution in INSTALL_HINTS.items()}
    distribution = brings.get(wanted, wanted if wanted in brings.values() else None)
    hint = f"Install it with `pip install {distribution}`." if distribution else None
    raise UnknownNameError("plugin", name, {offer.name for offer in offers}, hint=hint)


def configuration_keys(config: type[msgspec.Struct]) -> list[ConfigKey]:
    """The keys of a plugin's section, from its own type."""
    # A type of the plugin's own that has no schema is listed as anything at all.
    (ref,), components = msgspec.json.schema_components(
        [config], schema_hook=lambda odd: {"title": odd.__name__}, ref_template="{name}"
    )
    section = components[ref["$ref"]]
    required = section.get("required", [])
    return [
        ConfigKey(name=name, type=_inlined(schema, components), required=name in required)
        for name, schema in section["properties"].items()
    ]


def _inlined(schema: Any, components: Mapping[str, Any], above: tuple[str, ...] = ()) -> Any:  # noqa: ANN401 - JSON
    """A schema with what it refers to in its place, but for what contains itself."""
    if isinstance(schema, list):
        return [_inlined(item, components, above) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        name = schema["$ref"]
        if name in above:
            return {"title": name}
        above = (*above, name)
        schema = {**components[name], **{k: v for k, v in schema.items() if k != "$ref"}}
    return {key: _inlined(value, components, above) for key, value in schema.items()}


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def _offer(record: PluginRecord, spec: PluginSpec[Any] | None) -> Offer:
    capabilities: list[str] = []
    if isinstance(spec, StorageBackendSpec):
        capabilities = spec.capabilities.names()
    elif isinstance(spec, SerdeSpec) and spec.authenticates:
        capabilities = ["authenticates"]
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
