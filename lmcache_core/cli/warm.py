"""``lmcache warm``: pins made active by having their prompts computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from lmcache_core.cli.client import ControllerClient, controller_options, show
from lmcache_core.cli.jobs import ended
from lmcache_core.cli.narrowing import narrowing
from lmcache_core.cli.prompt import InputError, duration, pairs
from lmcache_core.cli.table import table

HEADINGS = ("PIN", "WHERE", "STATE", "TOKENS", "COMPUTED", "REASON")


@click.command()
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All pins that are not active.")
@narrowing("partial", "pending", "degraded")
@click.option(
    "--cache-salt", metavar="TEXT", help="The cache_salt of those that have one; it is not kept."
)
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="CONTENT=NAME",
    help="What the server calls the adapter of that content; repeatable.",
)
@click.option(
    "--prompt-timeout",
    metavar="TIME",
    callback=duration,
    help="How long a server may take to compute one prompt; 2m.",
)
@click.option("--no-wait", is_flag=True, help="Print the job's event and leave it to go on.")
@controller_options
def warm(
    *,
    names: Sequence[str],
    everything: bool,
    narrowed: dict[str, Any],
    cache_salt: str | None,
    adapters: Sequence[str],
    prompt_timeout: float | None,
    no_wait: bool,
    client: ControllerClient,
    as_json: bool,
) -> None:
    """Have the prompts of pins computed that are not active: those called NAMES, or that match.

    Each server is asked for its pins' prompts one by one, and stores what it has computed. Ends
    with 1 where a pin is not active then; the table says why.
    """
    if names:
        narrowed["pin_ids"] = list(names)
    if bool(narrowed) == everything:
        message = "say which: give the names of pins, or what they have in common, or --all"
        raise InputError(message)
    how: dict[str, object] = {
        "cache_salt": cache_salt,
        "adapters": pairs("--adapter", adapters, "CONTENT=NAME"),
        "prompt_timeout_s": prompt_timeout,
    }
    body = {**narrowed, **{key: value for key, value in how.items() if value}}
    job: dict[str, Any] = client.ask("POST", "/v1/pins:warm", body).document
    if not no_wait:
        job = ended(client, job["event_id"])
    if as_json:
        show(job)
    elif no_wait:
        click.echo(f"{job['event_id']}: {job['asked']} placements to warm")
    elif job["placements"]:
        click.echo(table(HEADINGS, [_row(placement) for placement in job["placements"]]))
    else:
        click.echo("nothing to warm")
    if job["state"] not in ("done", "running"):
        raise SystemExit(1)


def _row(placement: dict[str, Any]) -> tuple[str, ...]:
    return (
        placement["pin_id"],
        f"{placement['instance_id'] or 'nowhere'}:{placement['location']}",
        placement["state"],
        f"{placement['num_tokens']} of {placement['tokens_asked']}",
        "yes" if placement["computed"] else "no",
        placement["reason"],
    )
