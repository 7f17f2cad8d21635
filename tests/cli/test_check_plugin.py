"""``lmcache plugins check`` finds what is wrong with an installed plugin."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner, Result

from lmcache_core.cli.main import main
from lmcache_core.cli.plugins import kit

PLUGIN = """
import msgspec
from pathlib import Path
from lmcache_core import hookimpl
from lmcache_core.api import Capability, StorageBackendSpec

LMCACHE_PLUGIN_API = (0, 1)

class Config(msgspec.Struct, forbid_unknown_fields=True):
    path: str
    depth: int = 1

    def __post_init__(self):
        if not self.path.startswith("/"):
            raise ValueError(f"{self.path} is not absolute")

@hookimpl
def lmcache_register_storage_backends():
    return [StorageBackendSpec(name="CrateBackend", summary="files", load=load, config=Config,
                               capabilities=Capability.DURABLE | Capability.SCAN)]

def load():
    from lmcache_test_crate.backend import CrateBackend
    return CrateBackend
"""

BACKEND = """
import os
from pathlib import Path
from lmcache_core.api import PutStatus, StorageBackend
from lmcache_core.errors import BackendError

class CrateBackend(StorageBackend):
    def __init__(self, config, context):
        assert config.depth == 1
        self.folder = Path(config.path)

    @property
    def store_id(self):
        return str(self.folder)

    def open(self):
        self.folder.mkdir(exist_ok=True)

    def close(self):
        pass

    def stat(self, keys, deadline):
        return [self.file(key).stat().st_size if self.file(key).exists() else None for key in keys]

    def put(self, keys, frames, deadline):
        return [self.write(key, frame) for key, frame in zip(keys, frames)]

    def write(self, key, frame):
        part = self.file(key).with_suffix(f".{os.urandom(8).hex()}")
        part.write_bytes(frame)
        try:
            os.link(part, self.file(key))
        except FileExistsError:
            return PutStatus.PRESENT
        finally:
            part.unlink()
        return PutStatus.STORED

    def get(self, keys, buffers, deadline):
        return [self.read(key, buffer) for key, buffer in zip(keys, buffers)]

    def read(self, key, buffer):
        if not self.file(key).exists():
            return None
        frame = self.file(key).read_bytes()
        if len(frame) > len(buffer):
            return None
        buffer[: len(frame)] = frame
        return len(frame)

    def remove(self, keys, deadline):
        there = [self.file(key).exists() for key in keys]
        for key in keys:
            self.file(key).unlink(missing_ok=True)
        return there

    def scan(self):
        for file in list(self.folder.iterdir()):
            if not file.suffix and file.exists():
                yield bytes.fromhex(file.name), file.stat().st_size

    def file(self, key):
        return self.folder / key.hex()
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a plugin for this process and those that it starts."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)

    def make(plugin: str = PLUGIN, backend: str = BACKEND, *, typed: bool = True) -> None:
        package = site / "lmcache_test_crate"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "plugin.py").write_text(plugin)
        (package / "backend.py").write_text(backend)
        if typed:
            (package / "py.typed").write_text("")
        info = site / "lmcache_test_crate-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: lmcache-test-crate\nVersion: 1.0\n"
        )
        (info / "entry_points.txt").write_text(
            "[lmcache_core]\ncrate = lmcache_test_crate.plugin\n"
        )

    yield make
    for name in [name for name in sys.modules if name.startswith("lmcache_test_crate")]:
        del sys.modules[name]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["plugins", "check", "lmcache-test-crate", *arguments])


def outcomes(result: Result) -> dict[str, dict[str, str]]:
    return {outcome["check"]: outcome for outcome in json.loads(result.stdout)}


def test_a_good_backend_passes(install: Install) -> None:
    install()
    result = run("--config", "path={folder}/frames", "--json")
    assert result.exit_code == 0, result.output
    found = outcomes(result)
    assert len(found) > 40
    assert {outcome["result"] for outcome in found.values()} == {"passed", "skipped"}
    assert found["get_returns_what_was_put"]["of"] == "CrateBackend"
    assert found["frames_survive_reopening"]["result"] == "passed"
    assert found["put_reaches_the_store"]["result"] == "skipped"
    assert "peek" in found["put_reaches_the_store"]["reason"]
    assert found["it_is_loaded"] == {
        **found["it_is_loaded"],
        "of": "crate",
        "result": "passed",
        "reason": "plugin API 0.1",
    }
    assert " ms, " in found["its_module_is_light"]["reason"]


def test_a_backend_that_breaks_a_promise_fails_that_check(install: Install) -> None:
    install(backend=BACKEND.replace("if len(frame) > len(buffer):", "if not buffer:"))
    result = run("--config", "path={folder}/frames", "--only", "get or stat")
    assert result.exit_code == 1
    (row,) = [line for line in result.stdout.splitlines() if " failed " in line]
    assert row.split()[:3] == ["CrateBackend", "get_into_a_short_buffer_is_none", "failed"]
    assert result.stdout.splitlines()[-1].endswith(" 1 failed")


def test_a_named_store_is_left_empty(install: Install, tmp_path: Path) -> None:
    install()
    store = tmp_path / "store"
    result = run("--config", f"path={store}", "--only", "put or any_order")
    assert result.exit_code == 0, result.output
    assert list(store.iterdir()) == []


def test_a_store_in_use_is_not_touched(install: Install, tmp_path: Path) -> None:
    install()
    frame = tmp_path / "store" / ("ab" * 32)
    frame.parent.mkdir()
    frame.write_text("mine")
    result = run("--config", f"path={frame.parent}", "--only", "put")
    assert result.exit_code == 1
    assert "the store is not empty" in result.stdout
    assert frame.read_text() == "mine"
    assert list(frame.parent.iterdir()) == [frame]


def test_a_heavy_unmarked_untyped_module_fails_three_checks(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Afterwards the real one has to be there again: it cannot be imported twice.
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    late = "\ndef lmcache_engine_stopping():\n    pass\n"
    install(PLUGIN.replace("import msgspec\n", "import msgspec, torch\n") + late, typed=False)
    (tmp_path / "site" / "torch.py").write_text("")
    result = run("--config", "path={folder}/frames", "--json", "--only", "close")
    assert result.exit_code == 1
    found = outcomes(result)
    failed = {name for name, outcome in found.items() if outcome["result"] == "failed"}
    assert failed == {"its_hooks_are_marked", "its_module_is_light", "it_is_typed"}
    assert "lmcache_engine_stopping" in found["its_hooks_are_marked"]["reason"]
    assert "torch" in found["its_module_is_light"]["reason"]


def test_a_plugin_that_is_not_loaded_says_why(install: Install) -> None:
    install(PLUGIN.replace("LMCACHE_PLUGIN_API = (0, 1)", "LMCACHE_PLUGIN_API = (9, 0)"))
    result = run("--json")
    assert result.exit_code == 1
    found = outcomes(result)
    assert found["it_is_loaded"]["result"] == "failed"
    assert "built for plugin API 9.0" in found["it_is_loaded"]["reason"]
    assert "get_returns_what_was_put" not in found


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["cannot be made without 'path'", "--config path=VALUE"]),
        (["--config", "path=x", "--config", "pth=1"], ["no key 'pth'", "did you mean 'path'?"]),
        (["--config", "path"], ["'path' is not of the form KEY=VALUE"]),
        (["--config", "path=x", "--config", "depth=deep"], ["key 'depth'", "expected `int`"]),
    ],
)
def test_a_wrong_configuration_is_one_line(
    install: Install, arguments: list[str], words: list[str]
) -> None:
    install()
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


def test_keys_come_from_a_file_and_the_command_line_goes_over_it(
    install: Install, tmp_path: Path
) -> None:
    install()
    file = tmp_path / "crate.yaml"
    file.write_text("path: '{folder}/frames'\ndepth: 2\n")
    result = run("--config-file", str(file), "--config", "depth=1", "--only", "close")
    assert result.exit_code == 0, result.output


def test_a_missing_pytest_is_a_sentence(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    monkeypatch.setattr(kit, "NEEDED", ("pytest", "lmcache_no_such_module"))
    result = run("--config", "path={folder}/frames")
    assert result.exit_code == 2
    assert "needs lmcache_no_such_module" in result.stderr
    assert "pip install 'lmcache-core[testing]'" in result.stderr


def test_a_kit_that_does_not_end_is_ended(install: Install) -> None:
    install(
        backend=BACKEND.replace(
            "def close(self):\n        pass",
            "def close(self):\n        import time; time.sleep(600)",
        )
    )
    result = run("--config", "path={folder}/frames", "--timeout", "4")
    assert result.exit_code == 2
    assert "did not finish within 4 s" in result.stderr


def test_an_expression_that_means_no_check_is_said_to(install: Install) -> None:
    install()
    result = run("--config", "path={folder}/frames", "--only", "nothing_like_it")
    assert result.exit_code == 2
    assert "no check of the kit is meant by --only 'nothing_like_it'" in result.stderr


def test_what_is_not_installed_is_answered_with_what_is(install: Install) -> None:
    install()
    result = CliRunner().invoke(main, ["plugins", "check", "CrateBackends"])
    assert result.exit_code == 2
    assert "Did you mean 'CrateBackend'?" in result.stderr


def test_what_has_no_kit_says_so() -> None:
    result = CliRunner().invoke(main, ["plugins", "check", "LocalCPUBackend"])
    assert result.exit_code == 0
    assert "there is no kit for the kind 'memory backend'" in result.stdout
