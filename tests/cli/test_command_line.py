"""``lmcache`` itself: its commands, and errors in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from lmcache_core.cli.main import COMMANDS, main


def run(*arguments: str, env: dict[str, str] | None = None):
    return CliRunner().invoke(main, list(arguments), env=env)


def test_help_names_every_command() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for name, command in COMMANDS.items():
        assert name in result.output
        assert command.summary in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_loaded(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: lmcache {name}")


def test_the_version_is_the_distributions() -> None:
    from lmcache_core import __version__

    assert __version__ in run("--version").output


def test_an_unknown_command_is_two_lines_of_usage() -> None:
    result = run("pluginz")
    assert result.exit_code == 2
    assert "No such command 'pluginz'" in result.output


def test_an_error_is_one_line_and_status_2(tmp_path: Path) -> None:
    """Through the installed entry point's own function, in a process of its own."""
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            "from lmcache_core.cli.main import main; main(prog_name='lmcache')",
            *("config", "check", str(tmp_path / "none.yaml")),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: there is no configuration file")
