"""A command that a plugin brings is listed, helped with and run like the core's own."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import click
import pytest
from click.testing import CliRunner

from lmcache_core.cli import plugin_commands
from lmcache_core.cli.main import COMMANDS, main
from lmcache_core.cli.plugin_commands import GROUP
from lmcache_core.errors import LMCacheError


@pytest.fixture
def brings(monkeypatch: pytest.MonkeyPatch):
    """Install a distribution that brings what is in a module."""

    def install(**commands: object) -> None:
        module = ModuleType("brought_by_a_test")
        vars(module).update(commands)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        points = [EntryPoint(name, f"{module.__name__}:{name}", GROUP) for name in commands]
        monkeypatch.setattr(plugin_commands, "entry_points", lambda **_: points)

    return install


@click.command()
@click.option("--loud", is_flag=True)
def greet(*, loud: bool) -> None:
    """Say hello."""
    click.echo("HELLO" if loud else "hello")


@click.command()
def fail() -> None:
    """Fail."""
    raise LMCacheError("there is no such thing;\ntry another")


def run(*arguments: str):
    return CliRunner().invoke(main, list(arguments))


def test_it_is_listed_and_not_imported(brings, monkeypatch: pytest.MonkeyPatch) -> None:
    brings(greet=greet)
    monkeypatch.setitem(sys.modules, "brought_by_a_test", None)  # Importing it fails.
    output = run("--help").output
    assert "greet" in output
    assert "Brought by brought_by_a_test:greet." in output
    assert all(command.summary in output for command in COMMANDS.values())


def test_it_runs(brings) -> None:
    brings(greet=greet)
    assert run("greet").output == "hello\n"
    assert run("greet", "--loud").output == "HELLO\n"
    assert "Say hello." in run("greet", "--help").output


def test_its_errors_are_one_line_and_status_2(brings) -> None:
    brings(fail=fail)
    result = run("fail")
    assert result.exit_code == 2
    assert result.output == "Error: there is no such thing; try another\n"


def test_the_cores_own_come_first(brings) -> None:
    brings(plugins=greet)
    assert "hello" not in run("plugins").output
    assert "Brought by" not in run("--help").output


def test_a_name_that_nobody_brings_is_usage(brings) -> None:
    brings(greet=greet)
    assert "No such command 'gret'" in run("gret").output


def test_one_that_cannot_be_imported_is_one_line(brings, monkeypatch: pytest.MonkeyPatch) -> None:
    brings(greet=greet)
    monkeypatch.setitem(sys.modules, "brought_by_a_test", None)
    result = run("greet")
    assert result.exit_code == 2
    assert "its command 'greet' cannot be imported: ModuleNotFoundError" in result.output
    assert result.output.count("\n") == 1


def test_what_is_no_command_is_one_line(brings) -> None:
    brings(greet="hello")
    assert "brought_by_a_test:greet is no click.Command" in run("greet").output
