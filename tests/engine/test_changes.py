"""What a connector is told of chunks that come and go."""

from __future__ import annotations

import logging

import pytest

from lmcache_core.api import BackendContext, Capability
from lmcache_core.api.connector import ChunkChange
from lmcache_core.engine.chunks import changes
from lmcache_core.keys import Scope, tokens_to_bytes
from lmcache_core.testing import DictBackend, DictConfig
from tests.engine.rig import CHUNK_TOKENS, Rig, storage_spec
from tests.engine.test_pins import MEMORY
from tests.engine.test_storage_tier import settle

TOKENS = list(range(CHUNK_TOKENS + 5))
WHOLE, TAIL = tokens_to_bytes(TOKENS[:CHUNK_TOKENS]), tokens_to_bytes(TOKENS[CHUNK_TOKENS:])


def make(_config, _context):
    return DictBackend(DictConfig(), BackendContext(instance_id="rig", tier="dict"))


@pytest.fixture
def rig():
    specs = [storage_spec("dict", make, Capability.NONE)]
    with Rig(storage=specs, storage_chunks=8) as made:
        yield made


def test_nothing_is_kept_until_somebody_follows(rig):
    rig.serve(TOKENS)
    assert not rig.engine.take_changes()


def test_chunks_come_with_their_tokens_and_go_by_their_keys(rig):
    rig.engine.follow_changes()
    rig.serve(TOKENS)
    settle(rig)
    stored = rig.engine.take_changes()
    # The last chunk is taken in first.
    tail, whole, below = stored
    assert whole == ChunkChange(MEMORY, True, whole.key, None, WHOLE)
    assert tail == ChunkChange(MEMORY, True, tail.key, whole.key, TAIL)
    assert below == ChunkChange("dict", True, whole.key, None, WHOLE)
    assert not rig.engine.take_changes()
    rig.engine.tiers.drop(MEMORY, [whole.key], force=False)
    assert list(rig.engine.take_changes()) == [ChunkChange(MEMORY, False, whole.key)]


def test_the_first_chunk_of_a_salted_request_has_a_parent(rig):
    rig.engine.follow_changes()
    rig.serve(TOKENS[:CHUNK_TOKENS], Scope.of(cache_salt="s"))
    (change,) = (c for c in rig.engine.take_changes() if c.location == MEMORY)
    assert change.parent is not None


def test_a_tail_goes_when_a_longer_chunk_takes_its_place(rig):
    rig.engine.follow_changes()
    rig.serve(TOKENS)
    tail, _ = (c for c in rig.engine.take_changes() if c.location == MEMORY)
    rig.serve([*TOKENS, 7, 8, 9])
    come = [(c.stored, c.token_bytes) for c in rig.engine.take_changes() if c.location == MEMORY]
    longer = tokens_to_bytes([*TOKENS[CHUNK_TOKENS:], 7, 8, 9])
    assert sorted(come) == [(False, b""), (True, longer)]
    assert tail.token_bytes == TAIL


def test_what_is_lost_is_said(rig, monkeypatch, caplog):
    log = changes.ChangeLog()
    monkeypatch.setattr(changes, "MAX_CHANGES", 2)
    log._changes = type(log._changes)(maxlen=2)
    for number in range(3):
        log.note(ChunkChange(MEMORY, True, bytes([number])))
    with caplog.at_level(logging.WARNING, logger="lmcache.engine.chunks.changes"):
        assert [change.key for change in log.take()] == [b"\1", b"\2"]
    assert "changes=1" in caplog.text
