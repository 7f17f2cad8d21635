"""The configuration that a plugin is checked with, from the command line and a file."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmcache_core.api import PluginSpec
from lmcache_core.config import plugin_section
from lmcache_core.config.placeholder import in_folder
from lmcache_core.config.sources import from_file
from lmcache_core.config.suggest import nearest
from lmcache_core.errors import ConfigError
from lmcache_core.plugins import configuration_keys


def read_options(pairs: Iterable[str], file: Path | None) -> dict[str, Any]:
    """Read the keys of a file and lay those of the command line over them.

    Raises:
        ConfigError: One is not of the form ``KEY=VALUE``, or the file is none.
    """
    options = {key: given.value for key, given in from_file(file).items()} if file else {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--config {pair!r} is not of the form KEY=VALUE")
        options[key] = value
    return options


def sections_for(
    specs: Sequence[PluginSpec[Any]], options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The section of each thing that is offered; a key goes to all that have it.

    Raises:
        ConfigError: A required key is missing, nothing has one that is given,
            or a value is wrong.
    """
    known = {key.name for spec in specs for key in configuration_keys(spec.config)}
    for key in options:
        if key not in known:
            names = ", ".join(f"{spec.kind} {spec.name}" for spec in specs) or "what is checked"
            raise ConfigError(f"{names} has no key {key!r}{nearest(key, known)}", key=key)
    return [_section(spec, options) for spec in specs]


def _section(spec: PluginSpec[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    where = f"{spec.kind} {spec.name}"
    keys = {key.name: key for key in configuration_keys(spec.config)}
    missing = [key for key in keys.values() if key.required and key.name not in options]
    if missing:
        names = ", ".join(repr(key.name) for key in missing)
        example = f"--config {missing[0].name}=VALUE"
        raise ConfigError(
            f"{where} cannot be made without {names}; give it with {example}, or in --config-file "
            f"(`lmcache plugins describe {spec.name}` tells what it is)",
            key=missing[0].name,
        )
    section = {key: _value(value, keys[key].type) for key, value in options.items() if key in keys}
    plugin_section(spec.config, in_folder(section, tempfile.gettempdir()), where)
    return section


def _value(value: Any, schema: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Text of the command line is JSON where the key takes anything but text."""
    texts = [schema, *schema.get("anyOf", ())]
    if not isinstance(value, str) or any(choice.get("type") == "string" for choice in texts):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
