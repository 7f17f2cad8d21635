"""One entry of ``storage``: the core's own keys, and a section for the plugin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import inspect

from lmcache_core.config.engine import ANYWHERE, GIB, SerdeConfig, TierConfig, TierRules
from lmcache_core.config.section import AdmitEntry, StorageEntry
from lmcache_core.config.suggest import nearest
from lmcache_core.config.values import field_kinds, read_value

PLAIN = {
    key: kind for key, kind in field_kinds(StorageEntry).items() if key not in ("serde", "admit")
}
"""The type of each key of the core's own that has one value."""

ADMIT = field_kinds(AdmitEntry)

BELOW = ("serde", "write", "promote", "admit")
"""Keys that the memory tier has not."""


def read_entry(entry: Mapping[str, Any], where: str, *, memory: bool) -> TierConfig:
    """Read one tier.

    Args:
        entry: What is written.
        where: Its place, for example ``storage[1]``.
        memory: Whether it is the memory tier.

    Raises:
        ValueError: A key of the core's own is wrong or missing; a sentence.
    """
    options = {str(key): value for key, value in entry.items()}
    read = _read(options, PLAIN, where)
    if "backend" not in read:
        message = (
            f"{where} does not say which backend; write backend: NAME, and see "
            "`lmcache plugins` for the names"
        )
        raise ValueError(message)
    if read["backend"] == ANYWHERE:
        message = (
            f"{where}.backend is {ANYWHERE!r}, which no tier may be called: as the location of a "
            "pin it means all tiers together; give the backend another name"
        )
        raise ValueError(message)
    foreign = next((key for key in BELOW if memory and key in entry), None)
    if foreign is not None:
        message = f"{where} is the memory tier; {foreign} is for the tiers below it"
        raise ValueError(message)
    serdes = read_serdes(options.pop("serde", None), f"{where}.serde")
    write = read.get("write", "through")
    rules = TierRules(
        write=write,
        promote=read.get("promote", write == "through"),
        **_read_admit(options.pop("admit", None), f"{where}.admit"),
    )
    size = read.get("max_size")
    capacity_bytes = None if size is None else int(size * GIB)
    return TierConfig(read["backend"], capacity_bytes, options, serdes, rules)


def _read_admit(raw: object, where: str) -> dict[str, Any]:
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        message = f"{where} is {raw!r}; write a map of {' and '.join(ADMIT)}"
        raise ValueError(message)  # noqa: TRY004 - as all that is wrong with a value
    rest = {str(key): value for key, value in raw.items()}
    read = _read(rest, ADMIT, where)
    for key in rest:
        message = f"{where} has no key {key!r}{nearest(key, ADMIT)}"
        raise ValueError(message)
    return read


def _read(options: dict[str, Any], kinds: Mapping[str, inspect.Type], where: str) -> dict[str, Any]:
    """Take some keys out of a map, and read what they say."""
    read: dict[str, Any] = {}
    for key, kind in kinds.items():
        value = options.pop(key, None)
        if value is None:
            continue
        try:
            read[key] = read_value(value, kind)
        except ValueError as error:
            message = f"{where}.{key} {error}"
            raise ValueError(message) from error
    return read


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
