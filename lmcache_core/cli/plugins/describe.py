"""``lmcache plugins describe``: one plugin, and what it can be configured with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click
import msgspec

from lmcache_core.plugins import ConfigKey, Offer, PluginRegistry, find_offers

BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "pattern": "like {}",
}


@click.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
def describe(name: str, *, as_json: bool) -> None:
    """Tell all about NAME: something that a plugin offers, a plugin, or a distribution."""
    offers = find_offers(PluginRegistry.discover(), name)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(offers), indent=2))
    else:
        click.echo("\n\n".join(_describe(offer) for offer in offers))


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
    lines.append("  configuration" if offer.configuration else "  configuration none")
    for key in offer.configuration:
        lines += _key(key)
    return "\n".join(lines)


def _key(key: ConfigKey) -> Iterator[str]:
    yield f"    {key.name}: {', '.join([_type(key.type), *_bounds(key.type), _default(key)])}"
    if text := key.type.get("description"):
        yield f"      {text}"


def _type(schema: Mapping[str, Any]) -> str:
    """Name a JSON schema's type as a person would."""
    choices = schema.get("anyOf")
    if choices:
        return " or ".join(_type(choice) for choice in choices)
    values = schema.get("enum")
    if values:
        return " or ".join(json.dumps(value) for value in values)
    return str(schema.get("type", schema.get("title", "anything")))


def _bounds(schema: Mapping[str, Any]) -> list[str]:
    whole = {key: value for choice in schema.get("anyOf", ()) for key, value in choice.items()}
    whole.update(schema)
    return [words.format(whole[bound]) for bound, words in BOUNDS.items() if bound in whole]


def _default(key: ConfigKey) -> str:
    if key.required:
        return "required"
    return f"default {json.dumps(key.type['default'])}" if "default" in key.type else "optional"
