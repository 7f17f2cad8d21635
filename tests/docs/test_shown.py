"""Commands and configurations of every page are what the programs take."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from lmcache_core.cli.controller import serve
from lmcache_core.cli.main import main
from tests.docs.blocks import commands

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(ROOT.glob("plugins/*/README.md")),
    *sorted(ROOT.glob("examples/*/README.md")),
]
PROGRAMS: dict[str, click.Command] = {"lmcache": main, "lmcache_controller": serve}
INLINE = re.compile(r"`(lmcache(?:_controller)? [^`\n|]+)`")
YAML = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)


def program_calls(line: str) -> Iterator[list[str]]:
    """The calls of our programs in a line of the shell's, word by word."""
    words: list[str] = []
    for word in [*shlex.split(line), ";"]:
        if word not in ("|", ";", "&&", "||", "&"):
            words.append(word)
            continue
        while words and re.match(r"[A-Z_]+=", words[0]):
            del words[0]
        if words and words[0] in PROGRAMS:
            yield words
        words = []


def parse(words: list[str]) -> None:
    """Read a call as the program would, and do nothing.

    Raises:
        click.UsageError: The program would refuse it.
    """
    name, command, rest = words[0], PROGRAMS[words[0]], words[1:]
    context: click.Context | None = None
    while rest or not isinstance(command, click.Group):
        context = command.make_context(
            name, rest, parent=context, ignore_unknown_options=isinstance(command, click.Group)
        )
        if not isinstance(command, click.Group):
            return
        rest = [*context._protected_args, *context.args]
        if not rest:
            return
        found, next_command, rest = command.resolve_command(context, rest)
        assert found
        assert next_command
        name, command = found, next_command


SHOWN = [
    pytest.param(call, id=f"{page.relative_to(ROOT)}: {' '.join(call)}"[:90])
    for page in PAGES
    for line in commands(page)
    if re.search(r"(^|[ (])lmcache(_controller)?( |$)", line)
    for call in program_calls(line)
    if "--help" not in call
]
NAMED = sorted(
    {name for page in PAGES for name in INLINE.findall(page.read_text()) if "--help" not in name}
)


@pytest.mark.parametrize("call", SHOWN)
def test_a_command_that_is_shown_is_taken(call: list[str]) -> None:
    parse(call)


@pytest.mark.parametrize("text", NAMED)
def test_a_command_that_is_named_has_what_is_named(text: str) -> None:
    with suppress(click.MissingParameter):  # A sentence leaves out what it is not about.
        parse(shlex.split(text))


@pytest.mark.parametrize(
    "wrong", ["lmcache pin x --ttl 5m --location", "lmcache pinn", "lmcache pins --no"]
)
def test_a_wrong_command_would_be_seen(wrong: str) -> None:
    with pytest.raises(click.UsageError):
        parse(shlex.split(wrong))


def whole(text: str) -> str:
    """A configuration; around what is a serde's own keys, tiers of which one has that serde."""
    section = yaml.safe_load(text)
    if "encrypt_with" not in section:
        return text
    memory = {"backend": "LocalCPUBackend", "max_size": 1}
    disk = {"backend": "LocalDiskBackend", "path": "/x", "serde": {"name": "aesgcm", **section}}
    return yaml.safe_dump({"storage": [memory, disk]})


CONFIGURATIONS = [
    pytest.param(whole(text), id=f"{page.relative_to(ROOT)}:{number}")
    for page in PAGES
    for number, text in enumerate(YAML.findall(page.read_text()))
]


@pytest.mark.parametrize("text", CONFIGURATIONS)
def test_a_configuration_that_is_shown_is_one(text: str, tmp_path: Path) -> None:
    file = tmp_path / "lmcache.yaml"
    file.write_text(text)
    result = CliRunner().invoke(main, ["config", "check", str(file)])
    assert result.exit_code == 0, result.output
