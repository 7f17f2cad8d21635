"""The tiers, from ``storage`` or from the incumbent's flat keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmcache_core.config.engine import DEFAULT_MEMORY_BACKEND, GIB, TierConfig
from lmcache_core.config.section import EngineSection
from lmcache_core.config.sources import Given
from lmcache_core.config.tier_entry import read_entry, read_serdes
from lmcache_core.config.values import read_list_of_maps
from lmcache_core.errors import ConfigError

FLAT_KEYS = (
    "local_cpu",
    "max_local_cpu_size",
    "local_cpu_use_hugepages",
    "local_disk",
    "max_local_disk_size",
    "remote_url",
    "remote_serde",
)
"""Keys that describe tiers one by one; ``storage`` takes the place of all of them."""

REMOTE_BACKENDS = {
    "redis": "redis",
    "rediss": "redis",
    "valkey": "redis",
    "resp": "redis",
    "s3": "object-store",
    "gs": "object-store",
    "az": "object-store",
}
"""Which backend serves the scheme of ``remote_url``."""

LOSSY_SERDES = ("cachegen", "kivi")
"""Serdes of LMCache that change what they encode; a hit here never does."""

NO_SERDE = "naive"
"""LMCache's name for frames as they are."""


def read_storage(given: Given) -> tuple[TierConfig, ...]:
    """Read the list of tiers.

    Raises:
        ConfigError: It is no list of tiers, the memory tier has no size, or
            two tiers have one name.
    """
    try:
        entries = read_list_of_maps(given.value)
    except ValueError as error:
        raise _wrong(f"storage {error}", given) from error
    try:
        tiers = tuple(
            read_entry(entry, f"storage[{number}]", memory=not number)
            for number, entry in enumerate(entries)
        )
    except ValueError as error:
        raise _wrong(str(error), given) from error
    if not tiers:
        raise _wrong("storage is empty; list at least the memory tier, or leave it out", given)
    if tiers[0].capacity_bytes is None:
        raise _wrong(
            f"storage[0] ({tiers[0].backend}) is the memory tier and has no max_size; "
            "give its size in GiB",
            given,
        )
    names = [tier.backend for tier in tiers]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise _wrong(f"storage names {twice!r} twice; a tier's name is its backend's", given)
    return tiers


def flat_tiers(section: EngineSection, given: Mapping[str, Given]) -> tuple[TierConfig, ...]:
    """Make tiers of the flat keys.

    Args:
        section: The values that were read.
        given: The keys that somebody set.

    Raises:
        ConfigError: A disk without a size, or a remote address that no
            backend serves.
    """
    memory: dict[str, Any] = {"hugepages": True} if section.local_cpu_use_hugepages else {}
    tiers = [TierConfig(DEFAULT_MEMORY_BACKEND, int(section.max_local_cpu_size * GIB), memory)]
    if section.local_disk is not None:
        tiers.append(_disk_tier(section.local_disk, section.max_local_disk_size, given))
    if section.remote_url is not None:
        tiers.append(_remote_tier(section.remote_url, section.remote_serde, given["remote_url"]))
    return tuple(tiers)


def _disk_tier(path: str, size: float, given: Mapping[str, Given]) -> TierConfig:
    if not size:
        message = "local_disk has no size; give max_local_disk_size in GiB"
        raise ConfigError(message, key="max_local_disk_size", source=given["local_disk"].origin)
    paths = [one.strip().removeprefix("file://") for one in path.split(",") if one.strip()]
    options = {"path": paths if len(paths) > 1 else "".join(paths)}
    return TierConfig("LocalDiskBackend", int(size * GIB), options)


def _remote_tier(url: str, serde: str | None, given: Given) -> TierConfig:
    scheme, separator, place = url.partition("://")
    backend = REMOTE_BACKENDS.get(scheme) if separator else None
    if backend is None:
        known = ", ".join(f"{scheme}://" for scheme in REMOTE_BACKENDS)
        shown = f"{scheme}{separator}{place.rpartition('@')[2]}"  # Not the password.
        message = (
            f"remote_url is {shown!r}, and no backend here speaks that; it takes {known}; "
            "name any other backend in storage"
        )
        raise ConfigError(message, key="remote_url", source=given.origin)
    as_it_is = serde in (None, NO_SERDE, *LOSSY_SERDES)
    serdes = () if as_it_is else read_serdes(serde, "remote_serde")
    return TierConfig(backend, None, {"url": url}, serdes=serdes)


def _wrong(message: str, given: Given) -> ConfigError:
    return ConfigError(message, key="storage", source=given.origin)
