"""``lmcache adapter`` tells what the key of an adapter's requests says."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from lmcache_connector_vllm.adapters import AdapterNames
from lmcache_core.cli.main import main


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["adapter", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "README.md").write_text("not part of it")
    (folder / "adapter_config.json").write_text('{"r": 8}')
    (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 100)
    return folder


def test_it_prints_the_name_that_is_in_the_key_and_nothing_else(folder: Path) -> None:
    lora = SimpleNamespace(
        lora_name="any", lora_int_id=1, lora_path=str(folder), load_inplace=False
    )
    name = AdapterNames().name(lora)  # type: ignore[arg-type]
    result = run(folder)
    assert (result.exit_code, result.stdout) == (0, f"{name}\n")
    assert json.loads(run(folder, "--json").stdout) == {"path": str(folder), "adapter": name}


def test_it_is_as_the_readme_says(folder: Path) -> None:
    wanted = hashlib.sha256(b"lmcache:adapter:1\0")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        content = (folder / name).read_bytes()
        wanted.update(f"{name}\0{len(content)}\0".encode() + hashlib.sha256(content).digest())
    assert run(folder).stdout.strip() == wanted.hexdigest()


def test_a_copy_has_the_same_name_and_other_weights_another(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert run(copy).stdout == run(folder).stdout
    weights = copy / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert run(copy).stdout != run(folder).stdout


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_what_is_no_adapter_has_no_name(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    for path in (folder, folder / "README.md", folder / "nowhere"):
        result = run(path)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"no LoRA adapter is in {path}: expected adapter_config.json" in result.stderr
        assert result.stderr.count("\n") == 1


def test_a_name_on_the_hub_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    result = run("someone/adapter")
    assert result.exit_code == 2
    assert "huggingface_hub" in result.stderr
    assert "give the adapter's folder" in result.stderr


def test_it_imports_neither_torch_nor_vllm(folder: Path) -> None:
    program = (
        "import sys; from lmcache_core.cli.main import main; "
        f"main(['adapter', {str(folder)!r}], standalone_mode=False); "
        "assert not {'torch', 'vllm'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
