"""``lmcache lookup``, ``move``, ``clear``, ``compress`` and ``decompress``.

A prompt's chunks, by way of a controller.
"""

from __future__ import annotations

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


@click.command()
@click.option("--instance", required=True, help="In which instance.")
@click.option("--location", required=True, help="In which of its tiers.")
@click.option("--all", "everything", is_flag=True, help="All chunks, not those of a prompt.")
@click.option("--force", is_flag=True, help="Pinned chunks, too; their pins show as degraded.")
@prompt_options
@controller_options
def clear(
    *,
    instance: str,
    location: str,
    everything: bool,
    force: bool,
    fields: dict[str, Any],
    client: ControllerClient,
    as_json: bool,
) -> None:
    """Drop unpinned chunks of a tier: those of a prompt, or all."""
    if everything and fields:
        message = "give --all or a prompt, not both"
        raise InputError(message)
    body = {
        "instance_id": instance,
        "location": location,
        "force": force,
        "timeout_s": client.timeout_seconds,
        **(fields if everything else required(fields, "--all")),
    }
    answer = client.ask("POST", "/clear", body).document
    if as_json:
        show(answer)
    else:
        click.echo(f"{answer['num_tokens']} tokens dropped from {location} of {instance}")


def recoding(command: Callable[..., None]) -> Callable[..., None]:
    """The options of what encodes chunks in another way."""
    for option in (
        controller_options,
        prompt_options,
        click.option(
            "--all", "everything", is_flag=True, help="All chunks, not those of a prompt."
        ),
        click.option(
            "--method",
            required=True,
            metavar="SERDE[,SERDE]",
            help="By which serdes, as they encode; `lmcache plugins` lists those there are.",
        ),
        click.option("--location", required=True, help="In which of its storage tiers."),
        click.option("--instance", required=True, help="In which instance."),
    ):
        command = option(command)
    return command


@click.command()
@recoding
def compress(**options: Any) -> None:  # noqa: ANN401 - see recoding
    """Encode chunks of a storage tier by serdes where they are: those of a prompt, or all."""
    _recode("/compress", **options)


@click.command()
@recoding
def decompress(**options: Any) -> None:  # noqa: ANN401 - see recoding
    """Make raw again what serdes have encoded in a storage tier: of a prompt, or all."""
    _recode("/decompress", **options)


def _recode(
    path: str,
    *,
    instance: str,
    location: str,
    method: str,
    everything: bool,
    fields: dict[str, Any],
    client: ControllerClient,
    as_json: bool,
) -> None:
    if everything and fields:
        message = "give --all or a prompt, not both"
        raise InputError(message)
    body = {
        "instance_id": instance,
        "method": method,
        "location": location,
        "timeout_s": client.timeout_seconds,
        **(fields if everything else required(fields, "--all")),
    }
    answer = client.ask("POST", path, body).document
    if as_json:
        show(answer)
        return
    saved = answer["saved_bytes"]
    click.echo(
        f"{answer['num_tokens']} tokens in {location} of {instance} were encoded anew, which takes "
        f"{abs(saved)} bytes {'less' if saved >= 0 else 'more'}"
    )
    for outcome, count in answer["chunks"].items():
        click.echo(f"{outcome.replace('_', ' ')}: {count} chunks")
