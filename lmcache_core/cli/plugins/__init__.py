"""``lmcache plugins``: list, describe, begin and check plugins."""

from __future__ import annotations

import click

from lmcache_core.cli.lazy import LazyCommand, LazyGroup
from lmcache_core.cli.plugins.listing import show

COMMANDS = {
    "check": LazyCommand(
        "lmcache_core.cli.plugins.check:check", "Run the conformance kit against a plugin."
    ),
    "describe": LazyCommand(
        "lmcache_core.cli.plugins.describe:describe", "Tell all about one plugin."
    ),
    "new": LazyCommand(
        "lmcache_core.cli.plugins.new:new", "Write a new plugin that works and passes the kit."
    ),
}


@click.group(cls=LazyGroup, lazy=COMMANDS, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--strict", is_flag=True, help="Fail if a plugin is broken, used or not.")
@click.pass_context
def plugins(ctx: click.Context, *, as_json: bool, strict: bool) -> None:
    """List the plugins, and why one is not loaded."""
    if not ctx.invoked_subcommand:
        show(as_json=as_json, strict=strict)
