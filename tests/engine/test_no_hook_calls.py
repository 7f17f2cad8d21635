"""pluggy is for starting and stopping: nothing on the way of a request calls a hook."""

from __future__ import annotations

import pytest

from lmcache_core import hookimpl
from lmcache_core.api import Capability
from lmcache_core.plugins import PluginRegistry
from lmcache_core.testing import DictBackend, DictConfig
from tests.engine.rig import Rig, storage_spec
from tests.engine.test_pins import ask
from tests.engine.test_storage_tier import LONG, flood, settle


class Listener:
    """Implements every notification, so that calling one would be seen."""

    @hookimpl
    def lmcache_engine_started(self, instance_id: str) -> None:
        """Listen."""

    @hookimpl
    def lmcache_engine_stopping(self, instance_id: str) -> None:
        """Listen."""

    @hookimpl
    def lmcache_pin_changed(self, instance_id: str, report: object) -> None:
        """Listen."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every hook that is called from now on, by any registry that is discovered."""
    called: list[str] = []
    discover = PluginRegistry.discover

    def watched() -> PluginRegistry:
        registry = discover()
        registry._manager.register(Listener())
        registry._manager.add_hookcall_monitoring(
            lambda hook, *_: called.append(hook), lambda *_: None
        )
        return registry

    monkeypatch.setattr(PluginRegistry, "discover", watched)
    return called


def test_store_look_up_load_and_pin_call_no_hook(calls: list[str]) -> None:
    spec = storage_spec(
        "dict", lambda _config, context: DictBackend(DictConfig(), context), Capability.SCAN
    )
    with Rig(chunks=8, storage=[spec]) as rig:
        assert calls == ["lmcache_engine_started"]
        rig.serve(LONG)
        settle(rig)
        flood(rig)
        assert rig.serve(LONG) == len(LONG) - 1, "promoted and loaded"
        report = rig.engine.tiers.pins.pin(ask(LONG))
        assert report.tokens_pinned == len(LONG)
        rig.engine.tiers.pins.unpin("p", 1)
        assert calls == ["lmcache_engine_started"]
    assert calls == ["lmcache_engine_started", "lmcache_engine_stopping"]
