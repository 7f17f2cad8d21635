"""``lmcache plugins`` shows what is installed, and a stranger's plugin without help."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lmcache_core.cli.main import main
from lmcache_core.plugins.registry import INSTALL_HINTS

GOOD = """
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from lmcache_core import hookimpl
from lmcache_core.api import Capability, StorageBackendSpec

LMCACHE_PLUGIN_API = (0, 1)

class Config(msgspec.Struct):
    path: str
    depth: int = 2

@hookimpl
def lmcache_register_storage_backends():
    return [StorageBackendSpec(name="ShelfBackend", summary="wood, mostly", load=dict,
                               config=Config, capabilities=Capability.SCAN)]
"""


FULL = """
class Edge(msgspec.Struct, frozen=True):
    width: float = 2.5

class Config(msgspec.Struct, kw_only=True):
    wood: Annotated[Literal["oak", "pine"], Meta(description="What it is made of.")] = "oak"
    boards: Annotated[int, Meta(ge=1)] | None = None
    edge: Edge = Edge()
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("lmcache_test_shelf", "lmcache_test_broken"):
        sys.modules.pop(name, None)


def install(site: Path, name: str, source: str) -> None:
    (site / f"lmcache_test_{name}.py").write_text(source)
    info = site / f"lmcache_test_{name}-3.4.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: lmcache-test-{name}\nVersion: 3.4.5\n"
    )
    (info / "entry_points.txt").write_text(f"[lmcache_core]\n{name} = lmcache_test_{name}\n")


def run(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(main, ["plugins", *arguments], env=environ)


def test_the_table_has_a_row_for_it(site: Path) -> None:
    install(site, "shelf", GOOD)
    result = run()
    assert result.exit_code == 0
    (row,) = [row for row in result.stdout.splitlines() if row.startswith("ShelfBackend")]
    for cell in (
        "storage backend",
        "loaded",
        "lmcache-test-shelf",
        "3.4.5",
        "0.1",
        "scan",
        "path, depth",
        "wood, mostly",
    ):
        assert cell in row


def test_a_broken_plugin_is_in_the_table_with_its_cause(site: Path) -> None:
    install(site, "broken", "import lmcache_no_such_module")
    (row,) = [row for row in run().stdout.splitlines() if row.startswith("broken")]
    assert "failed" in row
    assert "No module named 'lmcache_no_such_module'" in row


def test_json_has_every_column(site: Path) -> None:
    install(site, "shelf", GOOD)
    (offer,) = [o for o in json.loads(run("--json").stdout) if o["name"] == "ShelfBackend"]
    assert offer["capabilities"] == ["scan"]
    assert offer["status"] == "loaded"
    assert [key["name"] for key in offer["configuration"]] == ["path", "depth"]
    assert set(offer) == {
        *("name", "kind", "summary", "plugin", "distribution", "version", "api"),
        *("status", "reason", "capabilities", "configuration"),
    }


def test_strict_fails_for_a_broken_plugin(site: Path) -> None:
    assert run("--strict").exit_code == 0
    install(site, "broken", "import lmcache_no_such_module")
    result = run("--strict")
    assert result.exit_code == 2
    assert "'broken' cannot be used" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_blocked_plugin_is_listed_as_blocked(site: Path) -> None:
    install(site, "broken", "import lmcache_no_such_module")
    result = run("--json", "--strict", LMCACHE_PLUGINS_BLOCKED="broken")
    (offer,) = [o for o in json.loads(result.stdout) if o["name"] == "broken"]
    assert offer["status"] == "blocked"


@pytest.mark.parametrize("name", ["ShelfBackend", "shelfbackend", "shelf"])
def test_describe_tells_all(site: Path, name: str) -> None:
    install(site, "shelf", GOOD)
    result = run("describe", name)
    assert result.exit_code == 0
    for words in (
        "wood, mostly",
        "lmcache-test-shelf 3.4.5",
        "path: string, required",
        "default 2",
    ):
        assert words in result.stdout


def test_describe_shows_types_bounds_defaults_and_help(site: Path) -> None:
    install(site, "shelf", GOOD.replace("class Config(msgspec.Struct):", FULL))
    shown = run("describe", "ShelfBackend").stdout
    assert [line.strip() for line in shown.partition("configuration")[2].splitlines()[1:]] == [
        'wood: "oak" or "pine", default "oak"',
        "What it is made of.",
        "boards: integer or null, at least 1, default null",
        'edge: object, default {"width": 2.5}',
        "path: string, required",
        "depth: integer, default 2",
    ]


def test_describe_in_json_has_whole_schemas(site: Path) -> None:
    install(site, "shelf", GOOD.replace("class Config(msgspec.Struct):", FULL))
    (offer,) = json.loads(run("describe", "lmcache_test-shelf", "--json").stdout)
    keys = {key["name"]: key for key in offer["configuration"]}
    assert keys["path"]["required"]
    assert keys["wood"]["type"]["enum"] == ["oak", "pine"]
    assert keys["edge"]["type"]["properties"]["width"]["type"] == "number"


def test_describe_of_an_unknown_name_suggests_one(site: Path) -> None:
    install(site, "shelf", GOOD)
    result = run("describe", "ShelfBackends")
    assert result.exit_code == 2
    assert "Did you mean 'ShelfBackend'?" in result.stderr


@pytest.mark.parametrize("name", ["Elsewhere", "lmcache-backend-elsewhere"])
def test_describe_of_a_known_name_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(INSTALL_HINTS, "Elsewhere", "lmcache-backend-elsewhere")
    result = run("describe", name)
    assert result.exit_code == 2
    assert "available: " in result.stderr
    assert "Install it with `pip install lmcache-backend-elsewhere`." in result.stderr


def test_a_section_of_an_installed_plugin_is_checked(site: Path) -> None:
    install(site, "shelf", GOOD)
    path = site / "lmcache.yaml"
    path.write_text(
        "storage: [{backend: LocalCPUBackend, max_size: 1}, {backend: ShelfBackend, pth: /a}]"
    )
    result = CliRunner().invoke(main, ["config", "check", str(path)])
    assert result.exit_code == 2
    assert "storage backend ShelfBackend has no key 'pth'; did you mean 'path'?" in result.stderr
