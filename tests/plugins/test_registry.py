"""Every outcome of loading a plugin is a record, and selection is by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint

import pytest

from lmcache_core.api import PLUGIN_API, Capability
from lmcache_core.errors import ConfigError, PluginError, UnknownNameError
from lmcache_core.plugins import PluginRegistry, PluginStatus

Install = Callable[..., list[EntryPoint]]

BACKEND = """
from lmcache_core import hookimpl
from lmcache_core.api import Capability, StorageBackendSpec

LMCACHE_PLUGIN_API = (0, 1)

def load():
    from lmcache_core.testing import DictBackend
    return DictBackend

@hookimpl
def lmcache_register_storage_backends():
    return [StorageBackendSpec(name="{name}", summary="a dictionary", load=load,
                               capabilities=Capability.SCAN)]
"""

MORE = """
from lmcache_core import hookimpl
from lmcache_core.api import EvictionPolicySpec, SerdeSpec, TransportSpec

LMCACHE_PLUGIN_API = (0, 1)

@hookimpl
def lmcache_register_eviction_policies():
    return [EvictionPolicySpec(name="Clock", summary="hands", load=dict)]

@hookimpl
def lmcache_register_controller_transports():
    return [TransportSpec(name="pigeon", summary="birds", load=dict, schemes=("rfc1149",))]

@hookimpl
def lmcache_register_serdes():
    return [SerdeSpec(name="rot13", summary="letters", load=dict)]
"""

NOISY = """
@hookimpl
def lmcache_engine_started(instance_id):
    raise OSError("a broken plugin was called")
"""

BROKEN = {
    "its import raises": ("import lmcache_no_such_module", "ModuleNotFoundError"),
    "it exits while it is imported": ("raise SystemExit(3)", "SystemExit"),
    "its hook raises": (
        BACKEND.format(name="x").replace("    return [", "    raise OSError('no')\n    return ["),
        "OSError: no",
    ),
    "it says nothing of the interface": (
        BACKEND.format(name="x").replace("LMCACHE_PLUGIN_API = (0, 1)", ""),
        "add LMCACHE_PLUGIN_API = (0, 2)",
    ),
    "its interface version is no version": (
        BACKEND.format(name="x").replace("= (0, 1)", "= 'zero'"),
        "TypeError",
    ),
    "its hook returns something else": (
        BACKEND.format(name="x").replace("return [", "return ['x'] or ["),
        "which is no PluginSpec",
    ),
    "its hook asks for what is not handed over": (
        BACKEND.format(name="x") + NOISY + "@hookimpl\ndef lmcache_engine_stopping(engine): pass\n",
        "PluginValidationError",
    ),
    "its hook has a name that nobody calls": (
        BACKEND.format(name="x") + NOISY + "@hookimpl\ndef lmcache_engine_stoping(): pass\n",
        "Did you mean 'lmcache_engine_stopping'?",
    ),
    "its hook has a name that nobody calls and is not even marked": (
        BACKEND.format(name="x").replace("backends():", "backend():").replace("@hookimpl", ""),
        "Did you mean 'lmcache_register_storage_backends'?",
    ),
    "its hook has a name that is like no other": (
        BACKEND.format(name="x") + NOISY + "@hookimpl\ndef lmcache_tea_is_ready(): pass\n",
        "lmcache_tea_is_ready",
    ),
}


def only(registry: PluginRegistry):
    (record,) = registry.records
    return record


def test_a_good_plugin_is_loaded(install: Install) -> None:
    registry = PluginRegistry(install("good", BACKEND.format(name="Dict")))
    record = only(registry)
    assert record.status is PluginStatus.LOADED
    assert record.reason == ""
    assert (record.name, record.distribution, record.version) == (
        "good",
        "lmcache-test-good",
        "1.2.3",
    )
    assert record.api == "0.1"
    assert [spec.name for spec in record.specs] == ["Dict"]
    spec = registry.backend("Dict")
    assert spec.capabilities is Capability.SCAN
    assert spec.load().__name__ == "DictBackend"


def test_a_blocked_plugin_is_not_even_imported(install: Install) -> None:
    registry = PluginRegistry(install("bad", "raise OSError"), blocked=["bad"])
    assert only(registry).status is PluginStatus.BLOCKED
    assert "LMCACHE_PLUGINS_BLOCKED" in only(registry).reason


@pytest.mark.parametrize("declared", [(0, 3), (1, 0), (1, 1)])
def test_a_plugin_of_another_interface_is_incompatible(
    install: Install, declared: tuple[int, int]
) -> None:
    source = BACKEND.format(name="Dict").replace("(0, 1)", str(declared))
    registry = PluginRegistry(install("new", source))
    record = only(registry)
    assert record.status is PluginStatus.INCOMPATIBLE
    assert record.api == "{}.{}".format(*declared)
    assert f"this core has {PLUGIN_API}" in record.reason
    with pytest.raises(PluginError, match="incompatible"):
        registry.backend("new")


@pytest.mark.parametrize("declared", [(0, 0), (0, 1), (0, 2)])
def test_a_plugin_of_an_earlier_minor_is_loaded(
    install: Install, declared: tuple[int, int]
) -> None:
    source = BACKEND.format(name="Dict").replace("(0, 1)", str(declared))
    assert only(PluginRegistry(install("old", source))).status is PluginStatus.LOADED


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_plugin_is_failed_and_harms_nobody(install: Install, fault: str) -> None:
    source, reason = BROKEN[fault]
    points = install("broken", source) + install("good", BACKEND.format(name="Dict"))
    registry = PluginRegistry(points)
    broken, good = registry.records
    assert broken.status is PluginStatus.FAILED
    assert reason in broken.reason
    assert good.status is PluginStatus.LOADED
    registry.hook.lmcache_engine_started(instance_id="i")
    with pytest.raises(PluginError, match="failed") as failure:
        registry.backend("broken")
    assert reason in str(failure.value)


def test_a_second_plugin_of_one_name_is_shadowed(install: Install) -> None:
    points = install("twin", BACKEND.format(name="One"))
    points += install("twin", BACKEND.format(name="Two"), distribution="lmcache-test-other")
    registry = PluginRegistry(points)
    assert [record.status for record in registry.records] == [
        PluginStatus.LOADED,
        PluginStatus.SHADOWED,
    ]
    assert registry.backend("One").name == "One"


def test_a_second_offer_of_one_name_is_shadowed(install: Install) -> None:
    points = install("first", BACKEND.format(name="Dict"))
    points += install("second", BACKEND.format(name="Dict"))
    registry = PluginRegistry(points)
    first, second = registry.records
    assert first.status is PluginStatus.LOADED
    assert second.status is PluginStatus.SHADOWED
    assert "storage backend 'Dict'" in second.reason


@pytest.mark.parametrize(
    "source", [BROKEN["its import raises"][0], BACKEND.format(name="D").replace("(0, 1)", "(9, 9)")]
)
def test_strictness_makes_a_broken_plugin_fatal(install: Install, source: str) -> None:
    with pytest.raises(PluginError, match="'broken' cannot be used"):
        PluginRegistry(install("broken", source), strict=True)


def test_strictness_lets_blocked_plugins_be(install: Install) -> None:
    registry = PluginRegistry(install("bad", "raise OSError"), blocked=["bad"], strict=True)
    assert only(registry).status is PluginStatus.BLOCKED


def test_the_environment_blocks_and_asks_for_strictness(install: Install) -> None:
    install("zz-broken", "raise OSError")
    environ = {"LMCACHE_PLUGINS_BLOCKED": " zz-broken , other", "LMCACHE_PLUGINS_STRICT": "1"}
    statuses = {r.name: r.status for r in PluginRegistry.discover(environ).records}
    assert statuses["zz-broken"] is PluginStatus.BLOCKED
    with pytest.raises(PluginError, match="zz-broken"):
        PluginRegistry.discover({"LMCACHE_PLUGINS_STRICT": "1"})
    assert PluginRegistry.discover({}).records


def test_an_unknown_backend_is_answered_with_what_there_is(install: Install) -> None:
    registry = PluginRegistry(install("good", BACKEND.format(name="DictBackend")))
    with pytest.raises(UnknownNameError) as failure:
        registry.backend("DictBackends")
    assert failure.value.available == ["DictBackend"]
    assert "Did you mean 'DictBackend'?" in str(failure.value)


def test_a_backend_goes_where_its_kind_belongs() -> None:
    registry = PluginRegistry.discover({})
    assert registry.memory_backend("LocalCPUBackend") is registry.backend("LocalCPUBackend")
    assert registry.storage_backend("LocalDiskBackend") is registry.backend("LocalDiskBackend")
    with pytest.raises(ConfigError, match="has to be a memory backend, for example"):
        registry.memory_backend("LocalDiskBackend")
    with pytest.raises(ConfigError, match="below the first tier a storage backend goes"):
        registry.storage_backend("LocalCPUBackend")


def test_a_known_name_is_answered_with_how_to_install_it() -> None:
    with pytest.raises(UnknownNameError, match="pip install lmcache-backend-local-cpu"):
        PluginRegistry([]).backend("LocalCPUBackend")
    with pytest.raises(UnknownNameError, match="pip install lmcache-transport-zmq"):
        PluginRegistry([]).transport("tcp://localhost:9001")


def test_everything_else_is_chosen_by_name_or_scheme(install: Install) -> None:
    registry = PluginRegistry(install("more", MORE))
    assert registry.eviction_policy("CLOCK").name == "Clock"
    assert registry.transport("rfc1149://coop:1").name == "pigeon"
    with pytest.raises(UnknownNameError, match="Clock"):
        registry.eviction_policy("LRU")
    with pytest.raises(UnknownNameError, match="rfc1149"):
        registry.transport("udp://coop:1")
    assert not registry.serde("rot13").authenticates
    with pytest.raises(UnknownNameError, match="Did you mean 'rot13'"):
        registry.serde("rot31")
    with pytest.raises(UnknownNameError, match="pip install lmcache-serde-zstd"):
        registry.serde("zstd")


def test_notifications_reach_every_loaded_plugin(install: Install) -> None:
    source = """
from lmcache_core import hookimpl
LMCACHE_PLUGIN_API = (0, 1)
seen = []
@hookimpl
def lmcache_engine_started(instance_id):
    seen.append(instance_id)
"""
    points = install("listener", source)
    registry = PluginRegistry(points)
    registry.hook.lmcache_engine_started(instance_id="i1")
    assert points[0].load().seen == ["i1"]


def test_a_helper_with_a_name_of_its_own_is_no_hook(install: Install) -> None:
    source = BACKEND.format(name="Dict") + "def lmcache_shelf():\n    return 7\n"
    assert only(PluginRegistry(install("helpful", source))).status is PluginStatus.LOADED
