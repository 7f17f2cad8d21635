"""``lmcache plugins new``: a distribution that works, to be changed into one's own."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from lmcache_core.cli.plugins.distribution import KINDS, NewDistribution
from lmcache_core.errors import ConflictError
from lmcache_core.plugins import INSTALL_HINTS, PluginRegistry, list_plugins


@click.command()
@click.argument("kind", type=click.Choice(sorted(KINDS)))
@click.argument("name")
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    help="The folder to write, which must not be there; ./DISTRIBUTION if not given.",
)
def new(kind: str, name: str, directory: Path | None) -> None:
    """Write the distribution of a plugin NAME of a KIND; it works and passes the kit.

    It holds a small implementation to put yours in the place of: a backend
    keeps files in a folder, a serde compresses with zlib, a policy evicts what
    came first, a transport speaks TCP.
    """
    plugin = NewDistribution(kind, name)
    _refuse_taken_names(plugin)
    folder = directory or Path(plugin.distribution)
    plugin.write(folder)
    place = shlex.quote(str(folder))
    click.echo(
        f"{plugin.distribution} is in {folder}. Next:\n\n"
        f"  pip install -e {shlex.quote(f'{folder}[test]')}\n"
        f"  lmcache plugins describe {plugin.offered}\n"
        f"  pytest {place}\n\n"
        f"Then put your own in the place of {folder / 'src' / plugin.module / f'{kind}.py'}."
    )


def _refuse_taken_names(plugin: NewDistribution) -> None:
    """Two plugins of one name cannot both be loaded: say so before one is written."""
    if plugin.distribution in INSTALL_HINTS.values():
        raise ConflictError(
            f"{plugin.distribution} is there already, beside lmcache-core, and what is installed "
            "under its name takes its place; choose another name"
        )
    for offer in list_plugins(PluginRegistry.discover()):
        taken = {offer.plugin.lower(), offer.name.lower()}
        mine = {plugin.name, plugin.offered.lower()}
        if taken & mine and offer.distribution != plugin.distribution:
            raise ConflictError(
                f"{offer.distribution}, which is installed here, has a plugin {offer.plugin!r} "
                f"that offers {offer.name!r}; only one of that name can be loaded, so choose "
                "another name"
            )
