"""A broken plugin is listed with its reason, and stops no host that does not name it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint

import pytest

from lmcache_core.config import TierConfig
from lmcache_core.errors import LMCacheError, PluginError
from lmcache_core.plugins import PluginRegistry, list_plugins
from tests.engine.rig import CHUNK_TOKENS, SLOT_BYTES, Rig

Install = Callable[..., list[EntryPoint]]

GOOD = """
from lmcache_core import hookimpl
from lmcache_core.api import StorageBackendSpec

LMCACHE_PLUGIN_API = (0, 2)

def load():
    from lmcache_core.testing import DictBackend, DictConfig
    return lambda config, context: DictBackend(DictConfig(), context)

@hookimpl
def lmcache_register_storage_backends():
    return [StorageBackendSpec(name="shelf", summary="{by}", load=load)]
"""

FAULTS = {
    "broken": ("import lmcache_no_such_module", "failed", "No module named"),
    "too new": (
        GOOD.format(by="later").replace("(0, 2)", "(0, 9)"),
        "incompatible",
        "built for plugin API 0.9, this core has 0.2",
    ),
    "misspelt": (
        GOOD.format(by="haste").replace("register_storage", "register_storag"),
        "failed",
        "Did you mean 'lmcache_register_storage_backends'?",
    ),
}


def tiers(*below: str) -> dict[str, object]:
    memory = TierConfig("LocalCPUBackend", 8 * SLOT_BYTES)
    return {"tiers": (memory, *(TierConfig(name, None) for name in below))}


@pytest.mark.parametrize("fault", FAULTS)
def test_it_is_listed_and_the_host_starts_unless_it_is_named(install: Install, fault: str) -> None:
    source, status, reason = FAULTS[fault]
    install("shelf", source)
    (row,) = [row for row in list_plugins(PluginRegistry.discover({})) if row.plugin == "shelf"]
    assert (row.status, row.distribution) == (status, "lmcache-test-shelf")
    assert reason in row.reason
    with Rig(overrides=tiers()) as rig:
        assert rig.serve(range(CHUNK_TOKENS)) == 0
        assert rig.serve(range(CHUNK_TOKENS)) == CHUNK_TOKENS - 1
    with pytest.raises(PluginError, match="'shelf' cannot be used") as fatal:
        Rig(overrides=tiers("shelf"))
    assert reason in str(fatal.value)


def test_a_duplicate_is_listed_and_the_first_one_serves(install: Install) -> None:
    install("a-shelf", GOOD.format(by="first"))
    install("b-shelf", GOOD.format(by="second"))
    rows = {row.plugin: row for row in list_plugins(PluginRegistry.discover({}))}
    assert (rows["a-shelf"].status, rows["b-shelf"].status) == ("loaded", "shadowed")
    assert "storage backend 'shelf', which another plugin offers" in rows["b-shelf"].reason
    with Rig(overrides=tiers("shelf")) as rig:
        assert rig.registry.backend("shelf").summary == "first"
        assert rig.serve(range(CHUNK_TOKENS)) == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_whoever_asks_for_strictness_gets_it(install: Install, fault: str) -> None:
    install("shelf", FAULTS[fault][0])
    with pytest.raises(LMCacheError, match="shelf"):
        PluginRegistry.discover({"LMCACHE_PLUGINS_STRICT": "1"})
