"""``lmcache controller serve`` and ``lmcache_controller``."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import click

from lmcache_core import log
from lmcache_core.cli.lazy import one_line_errors
from lmcache_core.config.controller import load_controller_config
from lmcache_core.errors import ConfigError

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=SETTINGS)
def controller() -> None:
    """Serve the controller that pins, looks up and clears."""


@controller.command(context_settings=SETTINGS)
@click.option("--host", help="Where the routes are served; 127.0.0.1 if not given.")
@click.option("--port", type=int, help="Their port; 9000 if not given, 0 takes a free one.")
@click.option(
    "--monitor-host",
    help="Where engines dial; localhost if not given. SCHEME://HOST takes another transport.",
)
@click.option("--monitor-port", type=int, help="Their port; 9001 if not given.")
@click.option(
    "--monitor-ports",
    metavar="JSON",
    help="LMCache's form of --monitor-port: its pull port is taken, one port is enough here.",
)
@click.option(
    "--token-file",
    type=click.Path(),
    help="File with the bearer token that every route but /healthz then asks for.",
)
@click.option(
    "--insecure/--no-insecure",
    default=None,
    help="Serve addresses other machines reach without a token.",
)
@click.option(
    "--ledger",
    metavar="FILE",
    help="SQLite file that pins and jobs are kept in, or none to keep them in memory only; "
    "~/.local/state/lmcache/pins.sqlite if not given.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    help="What is logged at least; info if not given.",
)
@click.option("--config", "file", type=click.Path(), help="YAML file with the same keys.")
def serve(file: str | None, monitor_ports: str | None, **flags: Any) -> None:  # noqa: ANN401 - click's
    """Serve until interrupted.

    Each option may also be given as LMCACHE_CONTROLLER_<OPTION>, and in the
    file; an option goes over the environment, the environment over the file.
    """
    with one_line_errors():
        if monitor_ports is not None and flags["monitor_port"] is None:
            flags["monitor_port"] = _pull_port(monitor_ports)
        config = load_controller_config(file=file, environ=os.environ, flags=flags)
        log.configure(config.log_level)
        # Only now, so that --help and a wrong option answer at once.
        from lmcache_core.controller.server import serve as run
        from lmcache_core.plugins import PluginRegistry

        asyncio.run(run(config, PluginRegistry.discover()))


def _pull_port(text: str) -> int:
    """Read the one port that is needed out of LMCache's two or three.

    Raises:
        ConfigError: It is no map with a ``pull`` port.
    """
    try:
        port = json.loads(text)["pull"]
    except (ValueError, TypeError, KeyError) as error:
        message = (
            f"--monitor-ports {text!r} is no map with a pull port, for example "
            '\'{"pull": 9001, "reply": 9002}\'; or give --monitor-port 9001'
        )
        raise ConfigError(message, key="monitor_port") from error
    click.echo(
        f"--monitor-ports: engines dial port {port}; the other ports are not needed.", err=True
    )
    return port  # type: ignore[no-any-return] # the configuration checks it


def main() -> None:
    """Run ``lmcache_controller``: the flags of ``lmcache controller serve``."""
    serve.main(prog_name="lmcache_controller")
