"""``lmcache pin``, ``unpin`` and ``pins``: pins of a controller."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import click

from lmcache_core.cli.client import ControllerClient, controller_options, show
from lmcache_core.cli.lazy import RefusedByControllerError
from lmcache_core.cli.narrowing import narrowing
from lmcache_core.cli.prompt import (
    InputError,
    duration,
    pairs,
    prompt_options,
    required,
)
from lmcache_core.cli.table import table

HEADINGS = ("PIN", "STATE", "TOKENS", "BYTES", "OWNER", "ENDS IN", "WHERE", "LABELS", "REASON")
ON_MISSING = ("partial", "reserve", "fail")


@click.command()
@click.argument("name", required=False)
@click.option("--instance", "instances", multiple=True, help="Where it is to stay; repeatable.")
@click.option(
    "--namespace",
    "namespaces",
    multiple=True,
    help="A model's name: in every instance that serves it, now or later; repeatable.",
)
@click.option(
    "--location",
    required=True,
    help="In which tier, for example LocalCPUBackend, or any: the last copy stays.",
)
@prompt_options
@click.option(
    "--ttl", metavar="TIME", callback=duration, help="How long, for example 90, 5m, 2h or 7d."
)
@click.option("--renew", is_flag=True, help="Let each hit start the time anew.")
@click.option("--owner", help="Who asks, for quotas.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A note; repeatable.")
@click.option(
    "--on-missing",
    type=click.Choice(ON_MISSING),
    help="What to do about tokens that are not cached; partial if not given.",
)
@click.option("--replace", is_flag=True, help="Replace a pin of that name, whatever it is.")
@click.option("--plan", is_flag=True, help="Pin nothing, tell what it would cost.")
@controller_options
def pin(
    *,
    name: str | None,
    instances: Sequence[str],
    namespaces: Sequence[str],
    location: str,
    ttl: float | None,
    renew: bool,
    owner: str | None,
    labels: Sequence[str],
    on_missing: str | None,
    replace: bool,
    plan: bool,
    fields: dict[str, Any],
    client: ControllerClient,
    as_json: bool,
) -> None:
    """Keep a prompt's KV cache where it is, under NAME or one that the controller gives."""
    places = [{"instance_id": each, "location": location} for each in instances]
    places += [{"namespace": each, "location": location} for each in namespaces]
    if not places:
        message = "say where: give --instance or --namespace"
        raise InputError(message)
    optional: dict[str, object] = {"ttl_s": ttl, "owner": owner, "on_missing": on_missing}
    body: dict[str, Any] = {
        "placements": places,
        **required(fields),
        **{key: value for key, value in optional.items() if value is not None},
        "renew": "on_hit" if renew else "fixed",
        "labels": pairs("--label", labels),
        "timeout_s": client.timeout_seconds,
    }
    if plan:
        extra = {} if name is None else {"pin_id": name}
        _show_plan(client.ask("POST", "/v1/pins:plan", {**body, **extra}).document, as_json=as_json)
        return
    if name is None:
        made = client.ask("POST", "/v1/pins", body).document
    else:
        made = _put(client, name, body, replace=replace)
    show(made) if as_json else click.echo(table(HEADINGS, [_row(made)]))


@click.command()
@click.argument("names", nargs=-1)
@click.option("--event", help="The event_id of the request that made the pin.")
@controller_options
def unpin(
    *,
    names: Sequence[str],
    event: str | None,
    client: ControllerClient,
    as_json: bool,
) -> None:
    """Release the pins called NAMES."""
    if not names and event is None:
        message = "say which: give the names of pins, or --event"
        raise InputError(message)
    answers: list[object] = []
    if event is not None:
        body = {"event_id": event, "timeout_s": client.timeout_seconds}
        answer = client.ask("POST", "/unpin", body).document
        answers.append(answer)
        if not as_json:
            click.echo(f"{event}: {answer['num_tokens']} tokens released")
    refused: list[RefusedByControllerError] = []
    for name in names:
        try:
            status, released = client.ask(
                "DELETE", f"{_path(name)}?timeout_s={client.timeout_seconds:g}"
            )
        except RefusedByControllerError as error:
            refused.append(error)  # It is no reason to keep the others.
            continue
        answers.append(released)
        if not as_json:
            told = "released" if status == 200 else "released; an engine that is away is told later"
            click.echo(f"{name}: {told}")
    if as_json:
        show(answers)
    if refused:
        message = " ".join(str(error) for error in refused)
        raise RefusedByControllerError(message, refused[0].status)


@click.command()
@click.argument("name", required=False)
@narrowing("active", "partial", "pending", "degraded", "expired")
@controller_options
def pins(
    *,
    name: str | None,
    narrowed: dict[str, Any],
    client: ControllerClient,
    as_json: bool,
) -> None:
    """List pins, or show the one called NAME, and how much of them holds."""
    if name is not None and narrowed:
        message = "say which: give the name of a pin, or what pins have in common"
        raise InputError(message)
    if name is not None:
        found = [client.ask("GET", _path(name)).document]
    else:
        labels = [f"{key}={value}" for key, value in narrowed.pop("labels", {}).items()]
        found = list(client.pages("/v1/pins", "pins", {**narrowed, "label": labels}))
    if as_json:
        show(found)
    elif found:
        click.echo(table(HEADINGS, [_row(item) for item in found]))
    else:
        click.echo("no pins")


def _put(
    client: ControllerClient, name: str, body: dict[str, Any], *, replace: bool
) -> dict[str, Any]:
    try:
        if_match = "*" if replace else None
        made: dict[str, Any] = client.ask("PUT", _path(name), body, if_match=if_match).document
    except RefusedByControllerError as error:
        if not replace or error.status != 412:  # There is nothing to replace.
            raise
        made = client.ask("PUT", _path(name), body).document
    return made


def _path(name: str) -> str:
    return f"/v1/pins/{quote(name, safe='')}"


def _row(item: dict[str, Any]) -> tuple[str, ...]:
    places = [f"{p['instance_id']}:{p['location']}" for p in item["placements"]]
    places += [f"{p['namespace_identity'][:12]}…:{p['location']}" for p in item["namespaces"]]
    return (
        item["pin_id"],
        item["state"],
        f"{item['num_tokens']} of {item['tokens_asked']}",
        str(sum(place["pinned_bytes"] for place in item["placements"])),
        item["owner"],
        _left(item["expires_at"]),
        ", ".join(places),
        ", ".join(f"{key}={value}" for key, value in item["labels"].items()),
        item["reason"],
    )


def _left(expires_at: float | None) -> str:
    if expires_at is None:
        return "never"
    seconds = max(0, round(expires_at - time.time()))
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds % 60:02}s"


def _show_plan(plan: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show(plan)
    else:
        headings = (
            "WHERE",
            "FITS",
            "CACHED",
            "WOULD TAKE",
            "TAKEN",
            "OF",
            "OWNER HAS",
            "OF",
            "WHY NOT",
        )
        rows = [
            (
                f"{place['instance_id']}:{place['location']}",
                "yes" if place["fits"] else "no",
                f"{place['cached_tokens']} of {plan['tokens_asked']}",
                str(place["asked_bytes"]),
                str(place["pinned_bytes"]),
                _bound(place["pin_limit_bytes"]),
                str(place["owner_bytes"]),
                _bound(place["owner_limit_bytes"]),
                place["reason"],
            )
            for place in plan["placements"]
        ]
        click.echo(table(headings, rows))
    if not plan["fits"]:
        raise SystemExit(1)


def _bound(nbytes: int | None) -> str:
    return "no bound" if nbytes is None else str(nbytes)
