"""Write the generated parts of ``docs/reference`` from the code they describe.

A part lies between ``<!-- generated: NAME -->`` and ``<!-- end -->``. Run
without arguments it rewrites the pages; ``tests/docs`` holds them to it.
"""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from lmcache_core.cli.main import main as command_line
from lmcache_core.config import engine_schema, incumbent
from lmcache_core.plugins import hookspecs

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
PART = re.compile(r"<!-- generated: (?P<name>[\w-]+) -->\n.*?<!-- end -->", re.DOTALL)
WIDTH = 100


def configuration_keys() -> str:
    """Every key that is honoured, with its default."""
    rows = ["| key | default | what it is |", "|---|---|---|"]
    for key, schema in engine_schema()["properties"].items():
        if not schema.get("deprecated"):
            rows.append(f"| `{key}` | {_default(schema)} | {schema['description']} |")
    return "\n".join(rows)


def tier_keys() -> str:
    """Every key of a tier that is the core's own."""
    return _keys_of("StorageEntry")


def admit_keys() -> str:
    """Every key of a tier's ``admit``."""
    return _keys_of("AdmitEntry")


def honoured_keys() -> str:
    """The incumbent's keys that mean here what they mean there."""
    return textwrap.fill(", ".join(f"`{key}`" for key in sorted(incumbent.HONOURED)) + ".", WIDTH)


def ignored_keys() -> str:
    """The incumbent's keys that change nothing here, by reason."""
    return _by_reason(incumbent.IGNORED)


def refused_keys() -> str:
    """The incumbent's keys that are refused, by reason."""
    return _by_reason(incumbent.REFUSED)


def commands() -> str:
    """The help of every command."""
    return "\n\n".join(
        f"## `{path}`\n\n```console\n$ {path} --help\n{text}\n```" for path, text in _helps()
    )


def hooks() -> str:
    """Every hook with its signature and what its specification says."""
    return "\n\n".join(_hook(name, hook) for name, hook in hook_functions())


def hook_functions() -> list[tuple[str, Callable[..., object]]]:
    """The hooks in the order of their specification."""
    found = inspect.getmembers(hookspecs, inspect.isfunction)
    own = [item for item in found if item[0].startswith("lmcache_")]
    return sorted(own, key=lambda item: item[1].__code__.co_firstlineno)


def hook_signature(name: str, hook: Callable[..., object]) -> str:
    """A hook as one line of Python."""
    return f"def {name}{inspect.signature(hook)}".replace("'", "")


PARTS: Mapping[str, Callable[[], str]] = {
    "configuration-keys": configuration_keys,
    "tier-keys": tier_keys,
    "admit-keys": admit_keys,
    "honoured-keys": honoured_keys,
    "ignored-keys": ignored_keys,
    "refused-keys": refused_keys,
    "commands": commands,
    "hooks": hooks,
}


def generated(page: str) -> str:
    """A page with its generated parts made anew."""

    def part(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- generated: {name} -->\n\n{PARTS[name]()}\n\n<!-- end -->"

    return PART.sub(part, page)


def _keys_of(part: str) -> str:
    rows = ["| key | default | what it is |", "|---|---|---|"]
    entry = engine_schema()["$defs"][part]
    for key, schema in entry["properties"].items():
        default = "needed" if key in entry["required"] else _default(schema)
        rows.append(f"| `{key}` | {default} | {schema['description']} |")
    return "\n".join(rows)


def _default(schema: Mapping[str, Any]) -> str:
    default = schema.get("default")
    if default is None:
        return "none"
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _by_reason(keys: Mapping[str, str]) -> str:
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for key, reason in keys.items():
        groups[reason].append(key)
    rows = ["| key | reason |", "|---|---|"]
    for reason, group in groups.items():
        rows.append(f"| {', '.join(f'`{key}`' for key in sorted(group))} | {reason} |")
    return "\n".join(rows)


def _helps() -> Iterator[tuple[str, str]]:
    def walk(command: click.Command, parent: click.Context | None) -> Iterator[tuple[str, str]]:
        context = command.make_context(
            command.name, [], parent, resilient_parsing=True, terminal_width=WIDTH
        )
        yield context.command_path, command.get_help(context)
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                if below is not None:
                    yield from walk(below, context)

    yield from walk(command_line, None)


def _hook(name: str, hook: Callable[..., object]) -> str:
    text = inspect.getdoc(hook) or ""
    return f"## `{name}`\n\n```python\n{hook_signature(name, hook)}\n```\n\n{text}"


def write() -> None:
    """Rewrite every page that has a generated part."""
    for path in sorted(REFERENCE.glob("*.md")):
        page = path.read_text(encoding="utf-8")
        path.write_text(generated(page), encoding="utf-8")


if __name__ == "__main__":
    write()
