"""Validating a plugin's own section by the plugin's own type."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from lmcache_core.config.suggest import nearest
from lmcache_core.errors import ConfigError

SectionT = TypeVar("SectionT", bound=msgspec.Struct)

_MISSING = re.compile(r"^Object missing required field `(?P<key>[^`]*)`$")

_PATH = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)


def plugin_section(config: type[SectionT], options: Mapping[str, Any], where: str) -> SectionT:
    """Make a plugin's configuration out of its section.

    Args:
        config: The ``config`` of its spec.
        options: The section's keys and values.
        where: Whose section it is, for messages, for example
            ``storage backend redis``.

    Raises:
        ConfigError: A key is unknown or missing, or a value is of the wrong
            type or refused by the plugin.
    """
    known = [field.encode_name for field in msgspec.structs.fields(config)]
    for key in options:
        if key not in known:
            message = f"{where} has no key {key!r}{nearest(key, known)}"
            raise ConfigError(message, key=key)
    try:
        return msgspec.convert(dict(options), config)
    except msgspec.ValidationError as error:
        if missing := _MISSING.match(str(error)):
            message = f"{where} needs the key {missing['key']!r}, which is not given"
            raise ConfigError(message, key=missing["key"]) from error
        match = _PATH.match(str(error))
        what, path = (match["what"], match["path"]) if match else (str(error), None)
        label = f"{where}, key {path!r}" if path else where
        message = f"{label}: {what[:1].lower()}{what[1:]}"
        raise ConfigError(message, key=path or None) from error
