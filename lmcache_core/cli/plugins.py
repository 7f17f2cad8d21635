"""``lmcache plugins``: what was found, and what became of it."""

from __future__ import annotations

import json
import os

import click
import msgspec

from lmcache_core.cli.table import table
from lmcache_core.errors import UnknownNameError
from lmcache_core.plugins import ConfigKey, Offer, PluginRegistry, PluginStatus, list_plugins

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


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--strict", is_flag=True, help="Fail if a plugin is broken, used or not.")
@click.pass_context
def plugins(ctx: click.Context, *, as_json: bool, strict: bool) -> None:
    """List the plugins, and why one is not loaded."""
    if ctx.invoked_subcommand:
        return
    offers = list_plugins(_discover(strict=strict))
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(offers), indent=2))
    elif offers:
        click.echo(table(HEADINGS, [_row(offer) for offer in offers]))
    else:
        click.echo("no plugins are installed; `pip install lmcache-backend-local-cpu` brings one")


@plugins.command()
@click.argument("name")
def describe(name: str) -> None:
    """Tell all about NAME: a backend, a policy, a transport or a plugin."""
    offers = list_plugins(_discover())
    found = [
        offer for offer in offers if name.lower() in (offer.name.lower(), offer.plugin.lower())
    ]
    if not found:
        raise UnknownNameError("plugin", name, {offer.name for offer in offers})
    click.echo("\n\n".join(_describe(offer) for offer in found))


def _discover(*, strict: bool = False) -> PluginRegistry:
    environ = {**os.environ, "LMCACHE_PLUGINS_STRICT": "1"} if strict else os.environ
    return PluginRegistry.discover(environ)


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


def _describe(offer: Offer) -> str:
    facts = [
        ("kind", offer.kind or "unknown"),
        ("what", offer.summary),
        ("plugin", offer.plugin),
        ("distribution", f"{offer.distribution} {offer.version}".strip()),
        ("plugin API", offer.api or "unknown"),
        ("status", f"{offer.status}: {offer.reason}" if offer.reason else offer.status),
        ("capabilities", ", ".join(offer.capabilities)),
    ]
    lines = [offer.name, *(f"  {label:<13} {fact or 'none'}" for label, fact in facts)]
    keys = [f"    {key.name}: {_type(key)}" for key in offer.configuration]
    return "\n".join([*lines, f"  {'configuration':<13} {'' if keys else 'none'}".rstrip(), *keys])


def _type(key: ConfigKey) -> str:
    choices = key.type.get("anyOf", [key.type])
    names = " or ".join(str(choice.get("type", choice.get("enum", "any"))) for choice in choices)
    end = "required" if key.required else f"default {json.dumps(key.type.get('default'))}"
    text = key.type.get("description")
    return f"{names}, {end}" + (f". {text}" if text else "")
