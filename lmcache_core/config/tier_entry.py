"""One entry of ``storage``: the core's own keys, and a section for the plugin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmcache_core.config.engine import GIB, SerdeConfig, TierConfig
from lmcache_core.config.section import StorageEntry
from lmcache_core.config.values import field_kinds, read_value

PLAIN = {key: kind for key, kind in field_kinds(StorageEntry).items() if key != "serde"}
"""The type of each key of the core's own that has one value."""


def read_entry(entry: Mapping[str, Any], where: str) -> TierConfig:
    """Read one tier.

    Args:
        entry: What is written.
        where: Its place, for example ``storage[1]``.

    Raises:
        ValueError: A key of the core's own is wrong or missing; a sentence.
    """
    options = {str(key): value for key, value in entry.items()}
    read: dict[str, Any] = {}
    for key, kind in PLAIN.items():
        value = options.pop(key, None)
        if value is None:
            continue
        try:
            read[key] = read_value(value, kind)
        except ValueError as error:
            message = f"{where}.{key} {error}"
            raise ValueError(message) from error
    serdes = read_serdes(options.pop("serde", None), f"{where}.serde")
    if "backend" not in read:
        message = (
            f"{where} does not say which backend; write backend: NAME, and see "
            "`lmcache plugins` for the names"
        )
        raise ValueError(message)
    size = read.get("max_size")
    return TierConfig(
        read["backend"], None if size is None else int(size * GIB), options, serdes=serdes
    )


def read_serdes(raw: object, where: str) -> tuple[SerdeConfig, ...]:
    """Read a serde's name, a map with a name, a list of these, or nothing.

    Raises:
        ValueError: It is none of them; a sentence.
    """
    if raw is None:
        return ()
    many = isinstance(raw, list | tuple)
    parts = list(raw) if isinstance(raw, list | tuple) else [raw]
    return tuple(
        _serde(part, f"{where}[{number}]" if many else where) for number, part in enumerate(parts)
    )


def _serde(raw: object, where: str) -> SerdeConfig:
    options = dict(raw) if isinstance(raw, dict) else {"name": raw}
    name = options.pop("name", None)
    if not isinstance(name, str) or not name.strip():
        message = (
            f"{where} is {raw!r}; write the name of a serde, or a map of its name and its own "
            "keys, and see `lmcache plugins` for the names"
        )
        raise ValueError(message)
    return SerdeConfig(name.strip(), {str(key): value for key, value in options.items()})
