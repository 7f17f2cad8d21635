"""What tests of an engine share."""

from __future__ import annotations

import pytest

from lmcache_backend_local_disk.disk import Disk


@pytest.fixture
def quick_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one waits for all that the machine writes; what it does the plugin's tests show."""
    monkeypatch.setattr(Disk, "sync", lambda *_, **__: None)
