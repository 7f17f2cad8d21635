"""``lmcache``: the one command, and what each subcommand is for."""

from __future__ import annotations

import click

from lmcache_core.cli.lazy import LazyCommand, lazy_group

COMMANDS = {
    "config": LazyCommand(
        "lmcache_core.cli.config:config", "Check a configuration, or print its schema."
    ),
    "controller": LazyCommand(
        "lmcache_core.cli.controller:controller", "Serve the controller that pins and looks up."
    ),
    "doctor": LazyCommand(
        "lmcache_core.cli.doctor:doctor", "Tell what is installed here and what is missing."
    ),
    "plugins": LazyCommand(
        "lmcache_core.cli.plugins:plugins", "List the plugins, and why one is not loaded."
    ),
}


@lazy_group("lmcache", COMMANDS)
@click.version_option(package_name="lmcache-core", prog_name="lmcache")
def main() -> None:
    """Keep the KV caches of language model servers, and say which ones must stay."""
