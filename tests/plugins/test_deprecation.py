"""What a plugin should no longer do is said at the plugin's own file and line."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from lmcache_core.api import PLUGIN_API
from lmcache_core.api.deprecation import warn_of_inherited
from lmcache_core.plugins import PluginRegistry
from tests.engine.rig import CHUNK_TOKENS, Rig

Install = Callable[..., list[EntryPoint]]

POLICY = """
from lmcache_core import hookimpl
from lmcache_core.api import EvictionPolicy, EvictionPolicySpec

LMCACHE_PLUGIN_API = (0, 1)


class Queue(EvictionPolicy):
    def __init__(self, config):
        self.keys = []

    def admit(self, key):
        self.keys.append(key)

    def touch(self, key):
        pass

    def remove(self, key):
        if key in self.keys:
            self.keys.remove(key)

    def victim(self):
        return self.keys[0] if self.keys else None

    def __len__(self):
        return len(self.keys)


@hookimpl
def lmcache_register_eviction_policies():
    return [EvictionPolicySpec(name="Queue", summary="of 0.1", load=lambda: Queue)]
"""
HELD = """
    def hold(self, key):
        self.remove(key)

    def release(self, key):
        self.admit(key)

    def __len__"""


def test_a_policy_built_for_0_1_goes_on_working_and_is_told_where_to_change(
    install: Install,
) -> None:
    (point,) = install("queue", POLICY)
    file = Path(point.load().__file__)
    line = file.read_text().splitlines().index("class Queue(EvictionPolicy):") + 1
    with pytest.warns(DeprecationWarning, match="Queue inherits") as told:
        rig = Rig(chunks=4, overrides={"cache_policy": "Queue"})
    with rig:
        assert rig.serve(range(CHUNK_TOKENS)) == 0
        assert rig.serve(range(CHUNK_TOKENS)) == CHUNK_TOKENS - 1
        for start in range(8):
            rig.serve([1000 * start + n for n in range(1, CHUNK_TOKENS + 1)])
        assert rig.hit(range(CHUNK_TOKENS)) == 0
    messages = sorted(str(warning.message) for warning in told)
    assert [message.partition(" inherits ")[2].partition(",")[0] for message in messages] == [
        "hold",
        "release",
    ]
    assert "deprecated since plugin API 0.2" in messages[0]
    assert {(warning.filename, warning.lineno) for warning in told} == {(str(file), line)}


def test_who_implements_them_is_told_nothing(install: Install) -> None:
    (point,) = install("queue", POLICY.replace("\n    def __len__", HELD))
    (spec,) = PluginRegistry([point]).records[0].specs
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_inherited(spec.load()(spec.config()))


def test_a_class_without_source_is_named_all_the_same(install: Install) -> None:
    scope = {"__name__": "made_up"}
    exec(POLICY, scope)
    with pytest.warns(DeprecationWarning, match=r"made_up\.Queue inherits") as told:
        warn_of_inherited(scope["Queue"](None))  # type: ignore[operator]
    assert {warning.filename for warning in told} == {"made_up"}


def test_the_interface_has_grown() -> None:
    assert str(PLUGIN_API) == "0.2"
