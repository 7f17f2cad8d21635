"""What a command is about: tokens, a prompt or chat messages, from wherever they are."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from lmcache_core.errors import LMCacheError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SEPARATORS = re.compile(r"[\s,]+")


class InputError(LMCacheError):
    """What was given to a command cannot be read."""


def duration(_context: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    """Read seconds, or a number with ``s``, ``m``, ``h`` or ``d``; for click."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", value)
    if match is None or not float(match[1]):
        message = f"{value!r} is no duration; write for example 90, 30s, 5m, 2h or 7d"
        raise click.BadParameter(message)
    return float(match[1]) * _UNITS[match[2] or "s"]


def pairs(option: str, values: Sequence[str], form: str = "KEY=VALUE") -> dict[str, str]:
    """What a repeatable option has named.

    Args:
        option: The option's name, for the message.
        values: What was given.
        form: How one is to be written.

    Raises:
        InputError: One has no value.
    """
    for value in values:
        if "=" not in value:
            message = f"{option}: {value!r} is no {form}"
            raise InputError(message)
    return dict(value.partition("=")[::2] for value in values)


def prompt_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that name tokens.

    The command is called with ``fields`` for them: those of a request's body.
    """

    @functools.wraps(command)
    def run(
        *,
        tokens: str | None,
        prompt: str | None,
        messages: str | None,
        cache_salt: str | None,
        adapter: str | None,
        tags: Sequence[str],
        **others: Any,  # noqa: ANN401 - the command's own
    ) -> None:
        fields = _tokens(tokens, prompt, messages) | _scope(cache_salt, adapter, tags)
        command(fields=fields, **others)

    for option in (
        click.option(
            "--tag",
            "tags",
            multiple=True,
            metavar="KEY=VALUE",
            help="A tag that the request was given; repeatable.",
        ),
        click.option(
            "--adapter",
            metavar="CONTENT",
            help="Its adapter, by the adapter's content; `lmcache adapter` prints it.",
        ),
        click.option("--cache-salt", metavar="TEXT", help="The request's cache_salt."),
        click.option(
            "--messages",
            metavar="FILE",
            help="JSON file of chat messages, or -; tokenised by the server.",
        ),
        click.option(
            "--prompt",
            metavar="TEXT",
            help="Text, @FILE, or - for standard input; tokenised by the server.",
        ),
        click.option(
            "--tokens",
            metavar="IDS",
            help="Token ids with commas or spaces between, or as JSON; or @FILE, or -.",
        ),
    ):
        run = option(run)
    return run


def required(fields: dict[str, Any], *others: str) -> dict[str, Any]:
    """Make sure that tokens are named.

    Args:
        fields: What the options of a prompt have given.
        others: Options of the command that would do instead, for the message.

    Raises:
        InputError: They are not.
    """
    if not fields.keys() & {"tokens", "prompt", "messages"}:
        *first, last = ("--tokens", "--prompt", "--messages", *others)
        message = f"say of what: give {', '.join(first)} or {last}"
        raise InputError(message)
    return fields


def _scope(cache_salt: str | None, adapter: str | None, tags: Sequence[str]) -> dict[str, Any]:
    """The fields of a request's body that name what the request varied by."""
    fields: dict[str, Any] = {"cache_salt": cache_salt, "adapter": adapter}
    if tags:
        fields["tags"] = pairs("--tag", tags)
    return {name: value for name, value in fields.items() if value is not None}


def _tokens(tokens: str | None, prompt: str | None, messages: str | None) -> dict[str, Any]:
    """The field of a request's body that names tokens."""
    given = [value for value in (tokens, prompt, messages) if value is not None]
    if len(given) > 1:
        message = "give one of --tokens, --prompt and --messages"
        raise InputError(message)
    fields: dict[str, Any] = {}
    if tokens is not None:
        fields["tokens"] = _token_ids(_text(tokens, "--tokens"))
    elif prompt is not None:
        fields["prompt"] = _text(prompt, "--prompt")
    elif messages is not None:
        source = messages if messages == "-" else f"@{messages}"
        try:
            fields["messages"] = json.loads(_text(source, "--messages"))
        except ValueError as error:
            message = f"--messages: {messages} is no JSON: {error}"
            raise InputError(message) from error
    return fields


def _text(value: str, option: str) -> str:
    """What an option stands for: itself, a file, or standard input."""
    if value == "-":
        return sys.stdin.read()
    if not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = f"{option}: {value[1:]} cannot be read: {error}"
        raise InputError(message) from error


def _token_ids(text: str) -> list[int]:
    """Token ids from JSON, also as /tokenize answers them, or from plain numbers."""
    text = text.strip()
    try:
        if text.startswith(("[", "{")):
            found = json.loads(text)
            found = found["tokens"] if isinstance(found, dict) else found
        else:
            found = [int(word) for word in _SEPARATORS.split(text) if word]
        if found and all(type(token) is int for token in found):
            return list(found)
    except (ValueError, TypeError, KeyError):
        pass
    shown = text if len(text) <= 40 else f"{text[:40]}…"
    message = f"--tokens: {shown!r} are no token ids; write for example 1,2,3 or [1, 2, 3]"
    raise InputError(message)
