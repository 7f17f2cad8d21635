"""Laying the sources over each other and making the configuration of the result."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from lmcache_core.config import incumbent
from lmcache_core.config.address import controller_address, server_address
from lmcache_core.config.engine import (
    DEFAULT_CONTROLLER_URL,
    GIB,
    EngineConfig,
    default_staging_bytes,
)
from lmcache_core.config.section import EngineSection
from lmcache_core.config.sources import (
    FILE_VARIABLE,
    PREFIX,
    Given,
    from_environment,
    from_file,
    from_overrides,
)
from lmcache_core.config.suggest import closest, nearest
from lmcache_core.config.tiers import FLAT_KEYS, LOSSY_SERDES, flat_tiers, read_storage
from lmcache_core.config.values import field_kinds, read_value
from lmcache_core.errors import ConfigError

KINDS = field_kinds(EngineSection)
"""The type of each key."""

KEYS = frozenset(KINDS)
"""Every key that is honoured."""

KNOWN = KEYS | frozenset(incumbent.IGNORED) | frozenset(incumbent.REFUSED)
"""Every key that is answered by name."""

DEFAULT = "default"

REQUEST_PIN_KEYS = ("request_pin_owner", "request_pin_quota", "request_pin_max_ttl_seconds")


class Resolved(msgspec.Struct, frozen=True):
    """A configuration and how it came about.

    Attributes:
        config: The configuration.
        origin: Where each key's value came from: a file, a variable, an
            override or ``default``.
        notices: Sentences for the log: what was ignored and why, and what a
            value taken over from LMCache means here.
    """

    config: EngineConfig
    origin: dict[str, str]
    notices: tuple[str, ...] = ()


def load_engine_config(
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    path: Path | None = None,
) -> Resolved:
    """Resolve an engine's configuration.

    Args:
        environ: Environment; the process's own by default.
        overrides: What lies over the environment: keys that start with
            ``lmcache.`` count, others are ignored.
        path: The YAML file; by default the one ``LMCACHE_CONFIG_FILE`` names,
            or none.

    Raises:
        ConfigError: A file, key or value is wrong; one sentence that names it.
    """
    env = os.environ if environ is None else environ
    if path is None and env.get(FILE_VARIABLE):
        path = Path(env[FILE_VARIABLE])
    notices: list[str] = []
    given: dict[str, Given] = {}
    for source in (
        {} if path is None else from_file(path),
        _without_unknown(from_environment(env, KNOWN), notices),
        from_overrides(overrides or {}),
    ):
        given.update(_checked(source, notices))
    section = _read(given)
    config = _build(section, given, notices)
    return Resolved(config, _origins(given), tuple(notices))


def _without_unknown(given: dict[str, Given], notices: list[str]) -> dict[str, Given]:
    """Leave out variables of no known key: others may use the prefix too."""
    for key in [key for key in given if key not in KNOWN]:
        name = f"{PREFIX}{key.upper()}"
        close = closest(key, KEYS)
        end = f"; did you mean {PREFIX}{close.upper()}?" if close else ""
        notices.append(f"the environment variable {name} is no configuration key{end}")
        del given[key]
    return given


def _checked(given: dict[str, Given], notices: list[str]) -> dict[str, Given]:
    """Keep what is to be read; refuse, or say what is ignored."""
    kept: dict[str, Given] = {}
    for key, item in given.items():
        if key in KEYS:
            if item.value is not None:  # null says nothing
                kept[key] = item
        elif key in incumbent.REFUSED:
            if not incumbent.is_off(item.value):
                message = f"{key} is refused: {incumbent.REFUSED[key]}"
                raise ConfigError(message, key=key, source=item.origin)
        elif key in incumbent.IGNORED:
            if not incumbent.is_off(item.value):
                notices.append(f"{key} is ignored: {incumbent.IGNORED[key]} ({item.origin})")
        else:
            message = f"unknown key {key!r}{nearest(key, KEYS)}"
            raise ConfigError(message, key=key, source=item.origin)
    return kept


def _read(given: Mapping[str, Given]) -> EngineSection:
    values: dict[str, Any] = {}
    for key, item in given.items():
        if key == "storage":
            continue
        try:
            values[key] = read_value(item.value, KINDS[key])
            if key in ("controller_url", "controller_pull_url"):
                values[key] = controller_address(values[key])
            elif key == "serving_url":
                values[key] = server_address(values[key])
        except ValueError as error:
            message = f"{key} {error}"
            raise ConfigError(message, key=key, source=item.origin) from error
    return EngineSection(**values)


def _build(section: EngineSection, given: Mapping[str, Given], notices: list[str]) -> EngineConfig:
    flat = [key for key in FLAT_KEYS if key in given]
    if "storage" in given:
        if flat:
            message = (
                f"storage and {flat[0]} ({given[flat[0]].origin}) both describe the tiers; "
                "keep storage and take the other out"
            )
            raise ConfigError(message, key="storage", source=given["storage"].origin)
        tiers = read_storage(given["storage"])
    else:
        tiers = flat_tiers(section, given)
        _explain_flat_keys(section, given, notices)
    memory_bytes = tiers[0].capacity_bytes or 0
    url = section.controller_url or section.controller_pull_url
    if url is None and section.enable_controller:
        url = DEFAULT_CONTROLLER_URL
    quota, staging = section.pin_owner_quota, section.staging_size
    _check_request_pins(section, given)
    request_quota = section.request_pin_quota
    return EngineConfig(
        chunk_size=section.chunk_size,
        chunk_size_explicit="chunk_size" in given,
        tiers=tiers,
        staging_bytes=default_staging_bytes(memory_bytes)
        if staging is None
        else int(staging * GIB),
        instance_id=section.lmcache_instance_id,
        enable_controller=section.enable_controller,
        controller_url=url,
        cache_policy=section.cache_policy,
        save_decode_cache=section.save_decode_cache,
        min_retrieve_tokens=section.min_retrieve_tokens,
        pin_share=section.pin_max_share,
        pin_owner_quota_bytes=None if quota is None else int(quota * GIB),
        request_pin_owner=section.request_pin_owner,
        request_pin_quota_bytes=None if request_quota is None else int(request_quota * GIB),
        request_pin_max_ttl_seconds=section.request_pin_max_ttl_seconds,
        promotion_timeout_seconds=section.promotion_timeout_seconds,
        storage_timeout_seconds=section.storage_timeout_seconds,
        job_timeout_seconds=section.job_timeout_seconds,
        heartbeat_seconds=section.lmcache_worker_heartbeat_time,
        serving_url=section.serving_url,
        on_start_failure=section.on_start_failure,
        weights_epoch=section.weights_epoch,
    )


def _check_request_pins(section: EngineSection, given: Mapping[str, Given]) -> None:
    """Refuse pins of requests that could grow without a bound, or be asked after nowhere."""
    named = [key for key in REQUEST_PIN_KEYS if key in given]
    if not named:
        return
    key = named[0]
    missing = [other for other in REQUEST_PIN_KEYS if other not in given]
    if missing:
        message = f"{key} is set without {' and '.join(missing)}; pins of requests need all three"
        raise ConfigError(message, key=key, source=given[key].origin)
    if not section.enable_controller:
        message = (
            f"{key} is set and enable_controller is not; only a controller can tell what has "
            "become of a pin that a request has asked for"
        )
        raise ConfigError(message, key=key, source=given[key].origin)


def _explain_flat_keys(
    section: EngineSection, given: Mapping[str, Given], notices: list[str]
) -> None:
    """Say what differs from LMCache for somebody who brings its file."""
    for key, size in (
        ("max_local_cpu_size", section.max_local_cpu_size),
        ("max_local_disk_size", section.max_local_disk_size),
    ):
        if key in given and size:
            notices.append(
                f"{key}: {size:g} GiB is for the whole instance; LMCache took it for each worker"
            )
    if not section.local_cpu:
        notices.append(
            "local_cpu: false is ignored: host memory is always the first tier, of "
            f"{section.max_local_cpu_size:g} GiB ({given['local_cpu'].origin})"
        )
    if section.max_local_disk_size and section.local_disk is None:
        notices.append("max_local_disk_size is ignored: local_disk names no folder")
    if section.remote_serde in LOSSY_SERDES:
        notices.append(
            f"remote_serde: {section.remote_serde} is ignored: it changes what it encodes, and a "
            f"hit here never differs from what was computed ({given['remote_serde'].origin})"
        )


def _origins(given: Mapping[str, Given]) -> dict[str, str]:
    origin = {key: given[key].origin if key in given else DEFAULT for key in KINDS}
    if "controller_url" not in given:
        origin["controller_url"] = origin["controller_pull_url"]
    flat = dict.fromkeys(given[key].origin for key in FLAT_KEYS if key in given)
    if flat:
        origin["storage"] = ", ".join(flat)
    return origin
