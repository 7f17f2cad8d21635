"""The distribution is found by its entry point and loads nothing early."""

from __future__ import annotations

import subprocess
import sys

from lmcache_core.api import Serde
from lmcache_core.plugins import PluginRegistry, PluginStatus


def test_it_is_installed_and_can_be_selected() -> None:
    registry = PluginRegistry.discover({})
    record = next(record for record in registry.records if record.name == "aesgcm")
    assert record.status is PluginStatus.LOADED, record.reason
    assert record.distribution == "lmcache-serde-aesgcm"
    spec = registry.serde("aesgcm")
    assert spec.authenticates
    assert isinstance(spec.load()(spec.config(keys={"k1": "env:KV_KEY"})), Serde)


def test_the_hook_imports_no_implementation() -> None:
    source = (
        "import sys, lmcache_serde_aesgcm.plugin as p;"
        "p.lmcache_register_serdes();"
        "sys.exit('cryptography' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", source], check=False, timeout=60).returncode == 0
