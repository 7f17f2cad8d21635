"""``lmcache adopt``: an engine of another ledger, taken over by this controller's."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import click

from lmcache_core.cli.client import ControllerClient, NoAnswerError, controller_options, show
from lmcache_core.cli.table import table

HEADINGS = ("INSTANCE", "STATE", "HOST", "MODEL")
POLL_SECONDS = 0.1


@click.command()
@click.argument("instance")
@controller_options
def adopt(*, instance: str, client: ControllerClient, as_json: bool) -> None:
    """Take over the pins of INSTANCE, which are in another controller's ledger.

    The name of a data-parallel server means all its ranks.
    """
    told = client.ask("POST", f"{_path(instance)}/adopt").document["instances"]
    engines = [_adopted(client, engine) for engine in told]
    if as_json:
        show(engines)
    else:
        click.echo(table(HEADINGS, [_row(engine) for engine in engines]))


def _adopted(client: ControllerClient, engine: dict[str, Any]) -> dict[str, Any]:
    """An engine once it has registered again, as one of this ledger's.

    Raises:
        NoAnswerError: It has been told to and has not done so in time.
    """
    name = engine["instance_id"]
    ends = time.monotonic() + client.timeout_seconds
    while engine["other_ledger"] is not None:
        if time.monotonic() > ends:
            message = (
                f"instance {name!r} has been told, and has not registered again in "
                f"{client.timeout_seconds:g} s; GET /v1/instances shows its other_ledger until then"
            )
            raise NoAnswerError(message)
        time.sleep(POLL_SECONDS)
        engine = client.ask("GET", _path(name)).document
    return engine


def _row(engine: dict[str, Any]) -> tuple[str, ...]:
    return (engine["instance_id"], engine["state"], engine["host"], engine["namespace"]["model"])


def _path(instance: str) -> str:
    return f"/v1/instances/{quote(instance, safe='')}"
