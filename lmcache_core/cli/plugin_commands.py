"""Commands that plugins bring, by the entry-point group ``lmcache_core.commands``.

No hook: a hook is asked when all plugins are loaded, which takes longer than
``lmcache --help`` may. The group's names are read from what is installed.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

import click

from lmcache_core.cli.lazy import LazyGroup
from lmcache_core.errors import PluginError

GROUP = "lmcache_core.commands"


class PluginCommands(LazyGroup):
    """The core's commands, and behind them those of plugins."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, sorted."""
        return sorted({*super().list_commands(ctx), *_brought()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command called ``cmd_name``.

        Raises:
            PluginError: A plugin's cannot be imported, or is none.
        """
        own = super().get_command(ctx, cmd_name)
        point = None if own is not None else _brought().get(cmd_name)
        return own if point is None else _load(point)

    def summaries(self) -> dict[str, str]:
        """What each command is for, by name; the core's own come first."""
        brought = {name: f"Brought by {_distribution(p)}." for name, p in _brought().items()}
        return {**brought, **super().summaries()}


def _brought() -> dict[str, EntryPoint]:
    return {point.name: point for point in sorted(entry_points(group=GROUP))}


def _load(point: EntryPoint) -> click.Command:
    try:
        command = point.load()
    except Exception as error:  # whatever a stranger's import raises
        reason = f"its command {point.name!r} cannot be imported: {type(error).__name__}: {error}"
        raise PluginError(_distribution(point), reason) from error
    if not isinstance(command, click.Command):
        raise PluginError(_distribution(point), f"{point.value} is no click.Command")
    return command


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value
