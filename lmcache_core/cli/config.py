"""``lmcache config``: what a configuration comes to, and what may be in one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from lmcache_core.api import PluginSpec
from lmcache_core.cli.masking import masked
from lmcache_core.cli.table import table
from lmcache_core.config import (
    EngineConfig,
    Resolved,
    TierConfig,
    TierRules,
    engine_schema,
    load_engine_config,
    plugin_section,
)
from lmcache_core.errors import UnknownNameError
from lmcache_core.plugins import PluginRegistry

Part = tuple[Callable[[str], PluginSpec[Any]], str, dict[str, Any]]
"""How to find a plugin, what it is asked for by, and its section."""

KEYS = {
    "chunk_size": "chunk_size",
    "staging_size": "staging_bytes",
    "lmcache_instance_id": "instance_id",
    "enable_controller": "enable_controller",
    "controller_url": "controller_url",
    "cache_policy": "cache_policy",
    "save_decode_cache": "save_decode_cache",
    "min_retrieve_tokens": "min_retrieve_tokens",
    "pin_max_share": "pin_share",
    "pin_owner_quota": "pin_owner_quota_bytes",
    "request_pin_owner": "request_pin_owner",
    "request_pin_quota": "request_pin_quota_bytes",
    "request_pin_max_ttl_seconds": "request_pin_max_ttl_seconds",
    "promotion_timeout_seconds": "promotion_timeout_seconds",
    "storage_timeout_seconds": "storage_timeout_seconds",
    "job_timeout_seconds": "job_timeout_seconds",
    "lmcache_worker_heartbeat_time": "heartbeat_seconds",
    "serving_url": "serving_url",
    "on_start_failure": "on_start_failure",
    "weights_epoch": "weights_epoch",
}
"""Which key each field of the configuration is read from."""


@click.group()
def config() -> None:
    """Check a configuration, or print its schema."""


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def check(file: Path, *, as_json: bool) -> None:
    """Resolve FILE with the environment laid over it, and tell where each value came from.

    Sections of plugins that are installed here are checked too. A mistake is
    one line on standard error and exit status 2.
    """
    resolved = load_engine_config(path=file)
    notices = [*resolved.notices, *_missing_plugins(resolved.config)]
    if as_json:
        document = {
            "config": masked(msgspec.to_builtins(resolved.config)),
            "origin": resolved.origin,
            "notices": notices,
        }
        click.echo(json.dumps(document, indent=2))
        return
    click.echo(table(("KEY", "VALUE", "FROM"), _rows(resolved)))
    for notice in notices:
        click.echo(f"note: {notice}")


@config.command()
def schema() -> None:
    """Print the JSON schema of a configuration file."""
    click.echo(json.dumps(engine_schema(), indent=2))


def _missing_plugins(config: EngineConfig) -> list[str]:
    """Check the sections of the plugins that are here; name those that are not."""
    registry = PluginRegistry.discover()
    parts: list[Part] = []
    for number, tier in enumerate(config.tiers):
        find_backend = registry.storage_backend if number else registry.memory_backend
        parts.append((find_backend, tier.backend, tier.options))
        parts += [(registry.serde, serde.name, serde.options) for serde in tier.serdes]
    parts.append((registry.eviction_policy, config.cache_policy, {}))
    if config.controller_url is not None:
        parts.append((registry.transport, config.controller_url, {}))
    missing: list[str] = []
    for find, name, options in parts:
        try:
            spec = find(name)
        except UnknownNameError as error:
            missing.append(str(error))
        else:
            plugin_section(spec.config, options, f"{spec.kind} {spec.name}")
    return missing


def _rows(resolved: Resolved) -> list[tuple[str, str, str]]:
    rows = [
        (f"storage[{number}]", _tier(tier), resolved.origin["storage"])
        for number, tier in enumerate(resolved.config.tiers)
    ]
    for key, field in KEYS.items():
        value = getattr(resolved.config, field)
        rows.append((key, _value(field, value), resolved.origin[key]))
    return rows


def _tier(tier: TierConfig) -> str:
    size = "no bound" if tier.capacity_bytes is None else _value("_bytes", tier.capacity_bytes)
    shown = masked(tier.options)
    options = "".join(f", {key}: {json.dumps(value)}" for key, value in shown.items())
    serdes = ", ".join(serde.name for serde in tier.serdes)
    chain = f", serde: {serdes}" if serdes else ""
    defaults = msgspec.to_builtins(TierRules())
    rules = msgspec.to_builtins(tier.rules)
    rules = "".join(
        f", {key}: {_value(key, value)}" for key, value in rules.items() if value != defaults[key]
    )
    return f"{tier.backend}, {size}{options}{chain}{rules}"


def _value(field: str, value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and field.endswith("_bytes"):
        return f"{value / (1 << 30):g} GiB"
    return f"{value:g} s" if isinstance(value, float) and "seconds" in field else str(value)
