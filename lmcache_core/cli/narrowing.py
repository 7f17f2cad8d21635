"""Which pins a command is about: those that have something in common."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import click

from lmcache_core.cli.prompt import pairs


def narrowing(*states: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options that narrow what a command does to some pins.

    The command is called with ``narrowed`` for those that were given: fields
    of a request's body, ``labels`` among them as a map.

    Args:
        *states: Those that ``--state`` may be.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(
            *,
            owner: str | None,
            instance: str | None,
            location: str | None,
            namespace: str | None,
            state: str | None,
            labels: Sequence[str],
            **others: Any,  # noqa: ANN401 - the command's own
        ) -> None:
            given: dict[str, object] = {
                "owner": owner,
                "instance_id": instance,
                "location": location,
                "namespace": namespace,
                "state": state,
                "labels": pairs("--label", labels),
            }
            command(narrowed={name: value for name, value in given.items() if value}, **others)

        for option in (
            click.option(
                "--label",
                "labels",
                multiple=True,
                metavar="KEY=VALUE",
                help="Only those with it; repeatable.",
            ),
            click.option("--state", type=click.Choice(states), help="Only those in this state."),
            click.option("--namespace", help="Only in instances that serve this model."),
            click.option("--location", help="Only in this tier, or in any."),
            click.option("--instance", help="Only in this instance."),
            click.option("--owner", help="Only this owner's."),
        ):
            run = option(run)
        return run

    return decorate
