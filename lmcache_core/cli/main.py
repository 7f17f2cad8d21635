"""``lmcache``: the one command, and what each subcommand is for."""

from __future__ import annotations

import click

from lmcache_core.cli.lazy import LazyCommand, lazy_group
from lmcache_core.cli.plugin_commands import PluginCommands

COMMANDS = {
    "adopt": LazyCommand(
        "lmcache_core.cli.instances:adopt", "Take over an engine's pins from another ledger."
    ),
    "clear": LazyCommand("lmcache_core.cli.chunks:clear", "Drop unpinned chunks of a tier."),
    "compress": LazyCommand(
        "lmcache_core.cli.chunks:compress", "Encode chunks of a storage tier by serdes."
    ),
    "config": LazyCommand(
        "lmcache_core.cli.config:config", "Check a configuration, or print its schema."
    ),
    "controller": LazyCommand(
        "lmcache_core.cli.controller:controller", "Serve the controller that pins and looks up."
    ),
    "decompress": LazyCommand(
        "lmcache_core.cli.chunks:decompress", "Make raw again what serdes have encoded."
    ),
    "doctor": LazyCommand(
        "lmcache_core.cli.doctor:doctor", "Tell what is installed here and what is missing."
    ),
    "jobs": LazyCommand(
        "lmcache_core.cli.jobs:jobs", "Show what a controller was asked, and what came of it."
    ),
    "lookup": LazyCommand("lmcache_core.cli.chunks:lookup", "Say who holds how much of a prompt."),
    "move": LazyCommand(
        "lmcache_core.cli.chunks:move", "Bring a prompt's chunks from one tier to another."
    ),
    "pin": LazyCommand("lmcache_core.cli.pins:pin", "Keep a prompt's KV cache where it is."),
    "pins": LazyCommand("lmcache_core.cli.pins:pins", "List pins, and how much of them holds."),
    "unpin": LazyCommand("lmcache_core.cli.pins:unpin", "Release pins."),
    "warm": LazyCommand(
        "lmcache_core.cli.warm:warm", "Have the prompts of pins computed that are not active."
    ),
    "plugins": LazyCommand(
        "lmcache_core.cli.plugins:plugins", "List the plugins, and why one is not loaded."
    ),
}


@lazy_group("lmcache", COMMANDS, PluginCommands)
@click.version_option(package_name="lmcache-core", prog_name="lmcache")
def main() -> None:
    """Keep the KV caches of language model servers, and say which ones must stay."""
