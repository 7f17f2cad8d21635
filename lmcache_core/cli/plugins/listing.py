"""What was found, and what became of it."""

from __future__ import annotations

import json
import os

import click
import msgspec

from lmcache_core.cli.table import table
from lmcache_core.plugins import Offer, PluginRegistry, PluginStatus, list_plugins

HEADINGS = (
    "NAME",
    "KIND",
    "STATUS",
    "DISTRIBUTION",
    "VERSION",
    "API",
    "CAPABILITIES",
    "CONFIGURATION",
    "WHAT IT IS, OR WHY IT IS NOT LOADED",
)


def show(*, as_json: bool, strict: bool) -> None:
    """Print a row for each thing offered, and for each plugin that offers none.

    Raises:
        PluginError: ``strict`` is set and a plugin is broken.
    """
    environ = {**os.environ, "LMCACHE_PLUGINS_STRICT": "1"} if strict else os.environ
    offers = list_plugins(PluginRegistry.discover(environ))
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(offers), indent=2))
    elif offers:
        click.echo(table(HEADINGS, [_row(offer) for offer in offers]))
    else:
        click.echo("no plugins are installed; `pip install lmcache-backend-local-cpu` brings one")


def _row(offer: Offer) -> tuple[str, ...]:
    return (
        offer.name,
        offer.kind,
        offer.status,
        offer.distribution,
        offer.version,
        offer.api or "",
        ", ".join(offer.capabilities),
        ", ".join(key.name for key in offer.configuration),
        offer.summary if offer.status == PluginStatus.LOADED.value else offer.reason,
    )
