"""The list of plugins says what each offers and why one is not there."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint

from lmcache_core.plugins import PluginRegistry, list_plugins

Install = Callable[..., list[EntryPoint]]

SOURCE = """
import msgspec
from lmcache_core import hookimpl
from lmcache_core.api import Capability, EvictionPolicySpec, StorageBackendSpec

LMCACHE_PLUGIN_API = (0, 1)

class Odd:
    pass

class Config(msgspec.Struct):
    path: str
    depth: int = 2
    odd: Odd | None = None

@hookimpl
def lmcache_register_storage_backends():
    return [StorageBackendSpec(name="Shelf", summary="wood", load=dict, config=Config,
                               capabilities=Capability.SCAN | Capability.DURABLE)]

@hookimpl
def lmcache_register_eviction_policies():
    return [EvictionPolicySpec(name="Clock", summary="hands", load=dict)]
"""


def test_one_row_for_each_thing_offered(install: Install) -> None:
    shelf, clock = list_plugins(PluginRegistry(install("carpenter", SOURCE)))
    assert (shelf.name, shelf.kind, shelf.summary) == ("Shelf", "storage backend", "wood")
    assert (shelf.plugin, shelf.distribution, shelf.version) == (
        "carpenter",
        "lmcache-test-carpenter",
        "1.2.3",
    )
    assert (shelf.status, shelf.reason, shelf.api) == ("loaded", "", "0.1")
    assert shelf.capabilities == ["durable", "scan"]
    assert [(key.name, key.required) for key in shelf.configuration] == [
        ("path", True),
        ("depth", False),
        ("odd", False),
    ]
    assert shelf.configuration[1].type["default"] == 2
    assert (clock.name, clock.kind, clock.capabilities) == ("Clock", "eviction policy", [])


def test_a_plugin_that_offers_nothing_has_its_row_too(install: Install) -> None:
    (row,) = list_plugins(PluginRegistry(install("bad", "import lmcache_no_such_module")))
    assert (row.name, row.kind, row.status, row.api) == ("bad", "", "failed", None)
    assert "lmcache_no_such_module" in row.reason
