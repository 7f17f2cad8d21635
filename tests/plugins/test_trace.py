"""``LMCACHE_TRACE_PLUGINS=1`` says what is asked of each plugin and what it takes."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import EntryPoint

import pytest

from lmcache_core.plugins import PluginRegistry

Install = Callable[..., list[EntryPoint]]

SOURCE = """
from lmcache_core import hookimpl
from lmcache_core.api import EvictionPolicySpec
LMCACHE_PLUGIN_API = (0, 2)

@hookimpl
def lmcache_register_eviction_policies():
    return [EvictionPolicySpec(name="Clock", summary="hands", load=dict)]

@hookimpl
def lmcache_engine_started(instance_id):
    if instance_id == "bad":
        raise OSError("no " + instance_id)
"""


def lines(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [r.getMessage() for r in caplog.records if f"event='{event}'" in r.getMessage()]


def test_discovery_and_each_call_are_logged(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install("clock", SOURCE)
    install("broken", "import lmcache_no_such_module")
    registry = PluginRegistry.discover({"LMCACHE_TRACE_PLUGINS": "1"})
    found = {
        re.search(r"plugin='([^']*)'", line).group(1): line  # type: ignore[union-attr]
        for line in lines(caplog, "plugin.traced")
    }
    assert set(found) == {record.name for record in registry.records}
    assert "outcome='loaded'" in found["clock"]
    assert "distribution='lmcache-test-clock'" in found["clock"]
    assert "outcome='failed'" in found["broken"]
    assert "lmcache_no_such_module" in found["broken"]
    assert re.search(r"milliseconds=\d+\.\d+", found["clock"])

    (registering,) = [
        line for line in lines(caplog, "plugin.hook_traced") if "plugin='clock'" in line
    ]
    assert "hook='lmcache_register_eviction_policies'" in registering
    assert "outcome='returned'" in registering

    registry.hook.lmcache_engine_started(instance_id="good")
    with pytest.raises(OSError, match="no bad"):
        registry.hook.lmcache_engine_started(instance_id="bad")
    started = [
        line
        for line in lines(caplog, "plugin.hook_traced")
        if "hook='lmcache_engine_started'" in line and "plugin='clock'" in line
    ]
    assert ["outcome='returned'" in line for line in started] == [True, False]
    assert "outcome='raised OSError: no bad'" in started[1]
    assert all(re.search(r"milliseconds=\d", line) for line in started)


@pytest.mark.parametrize("environ", [{}, {"LMCACHE_TRACE_PLUGINS": "0"}])
def test_nobody_who_has_not_asked_is_told(
    install: Install, caplog: pytest.LogCaptureFixture, environ: dict[str, str]
) -> None:
    install("clock", SOURCE)
    PluginRegistry.discover(environ).hook.lmcache_engine_started(instance_id="good")
    assert not lines(caplog, "plugin.traced")
    assert not lines(caplog, "plugin.hook_traced")
