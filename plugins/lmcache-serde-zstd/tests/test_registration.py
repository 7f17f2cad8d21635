"""The distribution is found by its entry point and loads nothing early."""

from __future__ import annotations

import subprocess
import sys

from lmcache_core.api import Serde
from lmcache_core.plugins import PluginRegistry, PluginStatus


def test_it_is_installed_and_can_be_selected() -> None:
    registry = PluginRegistry.discover({})
    record = next(record for record in registry.records if record.name == "zstd")
    assert record.status is PluginStatus.LOADED, record.reason
    assert record.distribution == "lmcache-serde-zstd"
    spec = registry.serde("zstd")
    assert not spec.authenticates
    assert isinstance(spec.load()(spec.config()), Serde)


def test_the_hook_imports_no_implementation() -> None:
    source = (
        "import sys, lmcache_serde_zstd.plugin as p;"
        "p.lmcache_register_serdes();"
        "sys.exit('zstandard' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", source], check=False, timeout=60).returncode == 0
