"""The reference says what the code says: keys, commands, hooks."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import click
import pytest
import yaml

from lmcache_core.cli.main import main
from lmcache_core.config import incumbent, load_engine_config
from lmcache_core.config.resolve import KEYS

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
PAGES = ("configuration.md", "cli.md", "hooks.md")


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    path = ROOT / "tools" / "generate_reference.py"
    spec = importlib.util.spec_from_file_location("generate_reference", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_the_generated_parts_are_current(generator: ModuleType, name: str) -> None:
    assert page(name) == generator.generated(page(name)), "run tools/generate_reference.py"


def test_every_configuration_key_is_documented() -> None:
    text = page("configuration.md")
    rows = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert rows >= KEYS


def test_every_key_of_the_incumbent_is_in_its_list() -> None:
    _, honoured, ignored, refused = re.split(
        r"^### .*$", page("configuration.md"), flags=re.MULTILINE
    )
    for section, keys in (
        (honoured, incumbent.HONOURED),
        (ignored, incumbent.IGNORED),
        (refused, incumbent.REFUSED),
    ):
        assert set(keys) <= set(re.findall(r"`(\w+)`", section))


def test_every_command_and_option_is_documented() -> None:
    text = page("cli.md")

    def walk(command: click.Command, path: str, parent: click.Context | None) -> None:
        context = click.Context(command, parent=parent, info_name=path)
        assert f"## `{path}`\n" in text
        for parameter in command.get_params(context):
            for option in parameter.opts:
                assert option.upper() in text.upper(), (path, option)
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                assert below
                walk(below, f"{path} {name}", context)

    walk(main, "lmcache", None)


def test_every_hook_is_documented_with_its_exact_signature(generator: ModuleType) -> None:
    text = page("hooks.md")
    found = generator.hook_functions()
    assert len(found) == 8
    for name, hook in found:
        assert f"```python\n{generator.hook_signature(name, hook)}\n```" in text


def test_the_plugin_that_is_shown_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = re.findall(r"```python\n(.*?)```", page("hooks.md"), re.DOTALL)[0]
    scope: dict[str, object] = {}
    exec(compile(source, "hooks.md", "exec"), scope)
    register = scope["lmcache_register_storage_backends"]
    assert callable(register)
    (spec,) = register()
    assert spec.name == "MyBackend"
    assert spec.load().__name__ == "DictBackend"


def test_the_tiers_that_are_shown_load(tmp_path: Path) -> None:
    for block in re.findall(r"```yaml\n(.*?)```", page("configuration.md"), re.DOTALL):
        path = tmp_path / "shown.yaml"
        path.write_text(block)
        tiers = load_engine_config(environ={}, path=path).config.tiers
        assert [tier.backend for tier in tiers] == [
            entry["backend"] for entry in yaml.safe_load(block)["storage"]
        ]
