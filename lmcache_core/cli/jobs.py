"""``lmcache jobs``: what a controller was asked, and what came of it."""

from __future__ import annotations

import sys
import time
from typing import Any
from urllib.parse import quote

import click

from lmcache_core.cli.client import ControllerClient, controller_options, show
from lmcache_core.cli.prompt import InputError
from lmcache_core.cli.table import table

HEADINGS = ("EVENT", "STATE", "STARTED", "SECONDS", "TOKENS", "ENGINES", "DETAIL")
STATES = ("running", "done", "failed", "unknown")
POLL_SECONDS = 0.25


@click.command()
@click.argument("event", required=False)
@click.option("--operation", help="Only this operation's, for example Move.")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, help="How many; 20.")
@click.option("--wait", is_flag=True, help="Wait until EVENT has ended, and show how far it is.")
@controller_options
def jobs(
    *,
    event: str | None,
    operation: str | None,
    state: str | None,
    limit: int,
    wait: bool,
    client: ControllerClient,
    as_json: bool,
) -> None:
    """List the latest jobs, or show EVENT; ends with 1 where that is not done."""
    if event is None and wait:
        raise InputError("say which: --wait waits for one EVENT")
    if event is None:
        query = {"operation": operation, "state": state, "limit": limit}
        found = client.ask("GET", "/v1/jobs", query=query).document["jobs"]
    else:
        found = [ended(client, event) if wait else _job(client, event)]
    if as_json:
        show(found)
    elif found:
        click.echo(table(HEADINGS, [_row(job) for job in found]))
    else:
        click.echo("no jobs")
    if event is not None and found[0]["state"] != "done":
        raise SystemExit(1)


def _job(client: ControllerClient, event: str) -> dict[str, Any]:
    found: dict[str, Any] = client.ask("GET", f"/v1/jobs/{quote(event, safe='')}").document
    return found


def ended(client: ControllerClient, event: str) -> dict[str, Any]:
    """A job once it has ended, shown as it goes on; the controller bounds how long that takes."""
    job = _job(client, event)
    with click.progressbar(length=max(1, job["asked"]), label=event, file=sys.stderr) as progress:
        shown = 0
        while job["state"] == "running":
            progress.update(job["answered"] - shown)
            shown = job["answered"]
            time.sleep(POLL_SECONDS)
            job = _job(client, event)
        progress.update(max(1, job["asked"]) - shown)
    return job


def _row(job: dict[str, Any]) -> tuple[str, ...]:
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job["started_at"]))
    ended = job["ended_at"]
    return (
        job["event_id"],
        job["state"],
        started,
        "" if ended is None else f"{ended - job['started_at']:.3f}",
        "" if job["num_tokens"] is None else str(job["num_tokens"]),
        f"{job['answered']} of {job['asked']}" if job["asked"] else "",
        job["detail"],
    )
