"""What tests of every floor share: processes, the tiny model, and whether vLLM is here."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from examples.pin.quickstart.server import Server
from examples.tiny_model.make_tiny_llama import make_tiny_llama

# On a busy machine threads of so small a model wait, 40 times longer; and a core
# that a server is bound to may be the one that others are busy on.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
os.environ.update(_ONE_THREAD)
_AT_START = dict(os.environ)

HAS_VLLM = importlib.util.find_spec("vllm") is not None

# Settings of whoever runs the tests, or of other tests in this process, that
# would change what a server does.
_STEERING = ("LMCACHE_", "VLLM_", "TORCH", "MODEL", "HF_", "TRANSFORMERS_", "QUICKSTART_")


def pytest_sessionstart() -> None:
    """Refuse to pass for want of vLLM where the tests are to include it."""
    if os.environ.get("REQUIRE_VLLM") == "1" and not HAS_VLLM:
        pytest.exit("REQUIRE_VLLM=1 and vLLM is not installed", returncode=1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests of real vLLM where there is none."""
    if HAS_VLLM:
        return
    for item in items:
        if item.get_closest_marker("vllm"):
            item.add_marker(pytest.mark.skip(reason="vLLM is not installed"))


@pytest.fixture(scope="module", autouse=True)
def environment_as_it_was() -> Iterator[None]:
    """Take back what other tests' modules put into the environment when they were collected."""
    added = {
        name: os.environ.pop(name)
        for name in set(os.environ) - set(_AT_START)
        if not name.startswith("PYTEST_")
    }
    yield
    os.environ.update(added)


@pytest.fixture
def quick_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk's first sync waits for all that the machine writes; what it does its tests show."""
    from lmcache_backend_local_disk.disk import Disk

    monkeypatch.setattr(Disk, "sync", lambda *_, **__: None)


@pytest.fixture(scope="session")
def clean_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment less what would steer a server, and with a place for what it keeps."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_STEERING)}
    state = str(tmp_path_factory.mktemp("state"))
    return {**kept, **_ONE_THREAD, "XDG_STATE_HOME": state}


@pytest.fixture(scope="module")
def run_server(clean_environment: dict[str, str]) -> Iterator[Callable[[Server], Server]]:
    """Start servers; each ends with its whole process group when the module's tests are over."""
    with ExitStack() as stopping:

        def run(server: Server) -> Server:
            stopping.callback(server.stop)
            server.start(clean_environment)
            return server

        yield run


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama, made on the spot."""
    pytest.importorskip("torch", reason="vLLM brings torch")
    return make_tiny_llama(tmp_path_factory.mktemp("model"))
