"""What is opened is closed, whatever fails on the way in or out."""

from __future__ import annotations

import threading

import pytest

from lmcache_core import hookimpl
from lmcache_core.api import Capability
from lmcache_core.errors import BackendError
from lmcache_core.plugins import PluginRegistry
from tests.engine.rig import CHUNK_TOKENS, Rig, storage_spec
from tests.engine.test_storage_tier import Watched


class Closing(Watched):
    def __init__(self):
        super().__init__()
        self.closed = False

    def close(self):
        self.closed = True
        super().close()


class Unusable(Watched):
    def open(self):
        raise BackendError("no such place")


def engine_threads():
    return [t.name for t in threading.enumerate() if t.name.startswith("lmcache-")]


def rude(monkeypatch, name):
    discover = PluginRegistry.discover

    def with_rude():
        registry = discover()
        plugin = type("Rude", (), {name: hookimpl(lambda self, instance_id: 1 / 0)})()
        registry._manager.register(plugin)
        return registry

    monkeypatch.setattr(PluginRegistry, "discover", with_rude)


def test_an_engine_that_cannot_start_leaves_no_tier_open():
    first, second = Unusable(), Closing()
    specs = [
        storage_spec("first", lambda _config, _context: first, Capability.NONE),
        storage_spec("second", lambda _config, _context: second, Capability.NONE),
    ]
    with pytest.raises(BackendError, match="no such place"):
        Rig(storage=specs, overrides={"on_start_failure": "fail"})
    assert second.closed
    assert engine_threads() == []


def test_a_store_that_cannot_be_used_is_left_out_and_seen_to_be():
    spec = storage_spec("bad", lambda _config, _context: Unusable(), Capability.NONE)
    tokens = list(range(CHUNK_TOKENS))
    with Rig(storage=[spec]) as rig:
        rig.serve(tokens)
        assert rig.hit(tokens) == CHUNK_TOKENS
        status = rig.engine.tiers.status()[1]
        assert (status.location, status.healthy, status.entries) == ("bad", False, 0)
    assert engine_threads() == []


def test_a_plugin_that_fails_to_hear_of_a_start_does_not_prevent_it(monkeypatch):
    rude(monkeypatch, "lmcache_engine_started")
    with Rig() as rig:
        rig.serve(list(range(CHUNK_TOKENS)))
        assert rig.hit(list(range(CHUNK_TOKENS))) == CHUNK_TOKENS
    assert engine_threads() == []


def test_a_plugin_that_fails_to_hear_of_a_stop_does_not_prevent_it(monkeypatch):
    rude(monkeypatch, "lmcache_engine_stopping")
    backend = Closing()
    spec = storage_spec("dict", lambda _config, _context: backend, Capability.NONE)
    with Rig(storage=[spec]) as rig:
        rig.serve(list(range(CHUNK_TOKENS)))
    assert backend.closed
    assert engine_threads() == []


def test_a_request_that_begins_again_leaves_no_lease_of_its_first_life():
    with Rig(chunks=2) as rig:
        tokens = list(range(2 * CHUNK_TOKENS))
        rig.serve(tokens)
        name = rig.begin(tokens)
        assert rig.engine.match(name, len(tokens)).tokens == len(tokens)
        rig.engine.begin(name, [1, 2, 3], rig.engine._requests[name].scope)
        assert rig.engine.match(name, 3).tokens == 0
        rig.engine.finish(name)
        other = [500 + i for i in range(2 * CHUNK_TOKENS)]
        rig.serve(other)
        assert rig.hit(other) == len(other)
