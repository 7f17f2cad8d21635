"""A folder that keeps pins."""

from __future__ import annotations

import pytest

from lmcache_core.api.pins import PinState
from tests.engine.kept_pins.keeping import engine, pin, record_files
from tests.engine.test_local_disk import Folder
from tests.engine.test_storage_tier import LONG, settle


@pytest.fixture
def folder(tmp_path, quick_syncs):
    return Folder(tmp_path)


@pytest.fixture
def pinned(folder):
    """A folder with a pinned prompt, whose engine has stopped."""
    with engine(folder) as rig:
        rig.serve(LONG)
        settle(rig)
        assert pin(rig).state is PinState.ACTIVE
    assert len(record_files(folder)) == 1
    return folder
