from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.controller.controller_process import ControllerProcess
from tests.controller.engine_peer import EnginePeer

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerProcess]:
    """One controller for all tests that leave it as it was."""
    with ControllerProcess(tmp_path_factory.mktemp("controller") / "log") as process:
        yield process
        assert process.stop() == 0
        assert "_failed" not in process.log.read_text()


@pytest.fixture
def own_controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerProcess]:
    """A controller that the test may kill."""
    with ControllerProcess(tmp_path_factory.mktemp("controller") / "log") as process:
        yield process


@pytest.fixture
def peer(controller: ControllerProcess) -> Iterator[EnginePeer]:
    """A welcomed engine under an id of its own."""
    with controller.peer(f"peer{next(_numbers)}") as engine:
        yield engine
