"""A group whose commands are imported when they are called, not when it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

import click

from lmcache_core.errors import LMCacheError


class RefusedByControllerError(LMCacheError):
    """A controller has answered with a problem document.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class LazyCommand(NamedTuple):
    """Where a command is and what it is for.

    Attributes:
        target: ``module:attribute``.
        summary: The line in the list of commands, so that ``--help`` need
            not import the module.
    """

    target: str
    summary: str


class LazyGroup(click.Group):
    """Loads commands by name; an ``LMCacheError`` of theirs is one line.

    Args:
        lazy: Commands by name.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, LazyCommand], **options: Any) -> None:  # noqa: ANN401 - click's own
        super().__init__(*args, **options)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, sorted."""
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command called ``cmd_name``."""
        entry = self.lazy.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = entry.target.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        summaries = self.summaries()
        rows = [(name, summaries[name]) for name in self.list_commands(ctx) if name in summaries]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def summaries(self) -> dict[str, str]:
        """What each command is for, by name."""
        return {name: command.summary for name, command in self.lazy.items()}

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; see :func:`one_line_errors`."""
        with one_line_errors():
            return super().invoke(ctx)


class OneLineError(click.ClickException):
    """An error as the command line shows it: one line, and exit status 2.

    That is for what was given wrong and for nobody who answers.
    """

    exit_code = 2


class RefusalError(OneLineError):
    """What a controller has refused: one line, and exit status 1."""

    exit_code = 1


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn an ``LMCacheError`` into one line on standard error and an exit status."""
    try:
        yield
    except RefusedByControllerError as error:
        raise RefusalError(" ".join(str(error).split())) from error
    except LMCacheError as error:
        raise OneLineError(" ".join(str(error).split())) from error


def lazy_group(
    name: str, commands: Mapping[str, LazyCommand], kind: type[LazyGroup] = LazyGroup
) -> Callable[..., LazyGroup]:
    """Decorate a function as a group of lazily imported commands."""
    return click.group(
        name,
        cls=kind,
        lazy=commands,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
