"""``lmcache lookup``, ``move``, ``clear``, ``compress`` and ``decompress``.

A prompt's chunks, by way of a controller.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from lmcache_core.cli.client import ControllerClient, controller_options, show
from lmcache_core.cli.prompt import InputError, prompt_options, required
from lmcache_core.cli.table import table


def position(_context: click.Context, _option: click.Parameter, value: str) -> tuple[str, str]:
    """Split ``INSTANCE:LOCATION``; for click."""
    instance, _, location = value.rpartition(":")
    if not instance or not location:
        raise click.BadParameter(f"{value!r} is no INSTANCE:LOCATION")
    return instance, location


@click.command()
@prompt_options
@controller_options
def lookup(
    *,
    fields: dict[str, Any],
    client: ControllerClient,
    as_json: bool,
) -> None:
    """Say who holds how much of a prompt, from its first token on."""
    body = {**required(fields), "timeout_s": client.timeout_seconds}
    answer = client.ask("POST", "/lookup", body).document
    found = answer["layout_info"]
    if as_json:
        show(answer)
    elif found:
        rows = [(name, location, str(count)) for name, (location, count) in found.items()]
        click.echo(table(("INSTANCE", "LOCATION", "TOKENS"), rows))
    else:
        click.echo("nobody holds any of it")


@click.command()
@click.option(
    "--from",
    "old",
    metavar="INSTANCE:LOCATION",
    callback=position,
    required=True,
    help="Where the chunks are.",
)
@click.option(
    "--to",
    "new",
    metavar="INSTANCE:LOCATION",
    callback=position,
    required=True,
    help="Where they are to go.",
)
@click.option("--copy", is_flag=True, help="Leave them where they are, too.")
@prompt_options
@controller_options
def move(
    *,
    old: tuple[str, str],
    new: tuple[str, str],
    copy: bool,
    fields: dict[str, Any],
    client: ControllerClient,
    as_json: bool,
) -> None:
    """Bring a prompt's chunks to another tier, of the same instance or of another.

    From one instance to another they go by way of a store that both share.
    """
    body = {
        "old_position": old,
        "new_position": new,
        "should_copy": copy,
        "timeout_s": client.timeout_seconds,
        **required(fields),
    }
    answer = client.ask("POST", "/move", body).document
    if as_json:
        show(answer)
    else:
        click.echo(f"{answer['num_tokens']} tokens are in {new[1]} of {new[0]}")


def chunk_options(tiers: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options that say which chunks of a tier are meant, and which controller is asked.

    The command is called with ``body`` for the former, and as
    :func:`controller_options` says.

    Args:
        tiers: Which tiers it may be, for the help.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(
            *,
            instance: str,
            location: str,
            everything: bool,
            fields: dict[str, Any],
            client: ControllerClient,
            **others: Any,  # noqa: ANN401 - the command's own
        ) -> None:
            if everything and fields:
                message = "give --all or a prompt, not both"
                raise InputError(message)
            body = {
                "instance_id": instance,
                "location": location,
                "timeout_s": client.timeout_seconds,
                **(fields if everything else required(fields, "--all")),
            }
            command(body=body, client=client, **others)

        decorated: Callable[..., None] = run
        for option in (
            controller_options,
            prompt_options,
            click.option(
                "--all", "everything", is_flag=True, help="All chunks, not those of a prompt."
            ),
            click.option("--location", required=True, help=f"In which of its {tiers}."),
            click.option("--instance", required=True, help="In which instance."),
        ):
            decorated = option(decorated)
        return decorated

    return decorate


@click.command()
@click.option("--force", is_flag=True, help="Pinned chunks, too; their pins show as degraded.")
@chunk_options("tiers")
def clear(
    *,
    body: dict[str, Any],
    force: bool,
    client: ControllerClient,
    as_json: bool,
) -> None:
    """Drop unpinned chunks of a tier: those of a prompt, or all."""
    answer = client.ask("POST", "/clear", {**body, "force": force}).document
    if as_json:
        show(answer)
    else:
        place = f"{body['location']} of {body['instance_id']}"
        click.echo(f"{answer['num_tokens']} tokens dropped from {place}")


method = click.option(
    "--method",
    required=True,
    metavar="SERDE[,SERDE]",
    help="By which serdes, as they encode; `lmcache plugins` lists those there are.",
)


@click.command()
@method
@chunk_options("storage tiers")
def compress(**options: Any) -> None:  # noqa: ANN401 - see _recode
    """Encode chunks of a storage tier by serdes where they are: those of a prompt, or all."""
    _recode("/compress", **options)


@click.command()
@method
@chunk_options("storage tiers")
def decompress(**options: Any) -> None:  # noqa: ANN401 - see _recode
    """Make raw again what serdes have encoded in a storage tier: of a prompt, or all."""
    _recode("/decompress", **options)


def _recode(
    path: str, *, body: dict[str, Any], method: str, client: ControllerClient, as_json: bool
) -> None:
    answer = client.ask("POST", path, {**body, "method": method}).document
    if as_json:
        show(answer)
        return
    saved = answer["saved_bytes"]
    place = f"{body['location']} of {body['instance_id']}"
    click.echo(
        f"{answer['num_tokens']} tokens in {place} were encoded anew, which takes "
        f"{abs(saved)} bytes {'less' if saved >= 0 else 'more'}"
    )
    for outcome, count in answer["chunks"].items():
        click.echo(f"{outcome.replace('_', ' ')}: {count} chunks")
