"""What README and tutorial tell a person to type exists."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.docs.blocks import commands

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKED = [
    *PAGES,
    ROOT / "CHANGELOG.md",
    ROOT / "csrc" / "README.md",
    *sorted(ROOT.glob("plugins/*/*.md")),
    *sorted(ROOT.glob("examples/*/*.md")),
]
LINK = re.compile(r"\]\(\s*(?!https?:)([^)#\s]*)(?:#([^)\s]*))?\s*\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
MADE_BY_HAND = {"tiny-llama", ".venv/bin/activate"}


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def shown() -> list[tuple[Path, str]]:
    return [(page, command) for page in PAGES for command in commands(page)]


def options_of(*command: str) -> str:
    program = Path(sys.executable).with_name(command[0])
    help_page = subprocess.run(
        [program, *command[1:], "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    return help_page.stdout


def test_the_readme_shows_the_two_commands() -> None:
    readme = commands(ROOT / "README.md")
    assert "make quickstart" in readme
    assert "make test" in readme


def test_every_make_target_shown_exists() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"`make ([a-z-]+)`", text))
    named |= {command.split()[1] for _, command in shown() if command.startswith("make ")}
    assert {"quickstart", "test", "check"} <= named <= targets()


def test_make_help_lists_every_target() -> None:
    listed = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    documented = set(re.findall(r"make ([a-z-]+)", listed))
    assert documented == targets() - {"python"}


def test_every_file_named_in_a_command_exists() -> None:
    for page, command in shown():
        for word in shlex.split(command):
            path = word.rpartition("=")[2]
            if path.startswith("/"):
                continue  # on the reader's machine, and made by the commands before
            if "/" in path and re.fullmatch(r"[\w./-]+", path) and path not in MADE_BY_HAND:
                assert (ROOT / path).exists(), f"{page.name} names {path}"


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = HEADING.findall(page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        there = page.parent / target if target else page
        assert there.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(there), f"{page.name} links to {target}#{anchor}"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for page in PAGES:
        if page.name != "README.md":
            assert str(page.relative_to(ROOT / "docs")) in index


def test_the_options_shown_are_options() -> None:
    pages = {"lmcache_controller": options_of("lmcache_controller")}
    for page, command in shown():
        words = shlex.split(command)
        if words[0] in pages:
            for option in (word for word in words if word.startswith("--")):
                assert option in pages[words[0]], f"{page.name} shows {option}"


def test_the_subcommands_shown_are_subcommands() -> None:
    help_page = options_of("lmcache")
    text = "\n".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"`lmcache ([a-z]+)", text))
    assert named
    for name in named:
        assert re.search(rf"^  {name} ", help_page, re.MULTILINE), name


def test_the_configuration_is_the_published_one() -> None:
    config = yaml.safe_load((ROOT / "examples/pin/example.yaml").read_text())
    assert config == {
        "chunk_size": 256,
        "local_cpu": True,
        "max_local_cpu_size": 5,
        "enable_controller": True,
        "lmcache_instance_id": "lmcache_default_instance",
        "controller_url": "localhost:9001",
        "lmcache_worker_port": 8001,
    }


def test_the_readme_lists_every_distribution() -> None:
    readme = (ROOT / "README.md").read_text()
    for project in ROOT.glob("plugins/*/pyproject.toml"):
        assert f"(plugins/{project.parent.name}/README.md)" in readme
