"""Engines whose pins may be in any tier."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.anywhere.engines import Engine
from tests.engine.rig import Rig


@pytest.fixture
def engine(tmp_path: Path, quick_syncs: None) -> Engine:
    return Engine(tmp_path)


@pytest.fixture
def rig(engine: Engine) -> Iterator[Rig]:
    with engine.start() as rig:
        yield rig
