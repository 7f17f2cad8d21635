"""Tails whose blocks hold nothing behind the last token go where whole chunks go."""

from __future__ import annotations

import pytest

from lmcache_core.api import Capability
from lmcache_core.api.connector import KVGroup
from lmcache_core.keys import Scope
from lmcache_core.testing import DictBackend, DictConfig, DictStore
from tests.engine.kept_pins.keeping import report
from tests.engine.rig import BLOCK_BYTES, BLOCK_TOKENS, CHUNK_TOKENS, GARBAGE, Rig, storage_spec
from tests.engine.serdes import ZLIB, chain
from tests.engine.test_pins import MEMORY, ask
from tests.engine.test_storage_tier import below, flood, settle

CLEARED = [KVGroup(BLOCK_TOKENS, BLOCK_BYTES, clears_tails=True)]
LENGTHS = [1, 3, 6, CHUNK_TOKENS + 2, 2 * CHUNK_TOKENS + 15]


@pytest.fixture
def store():
    return DictStore()


@pytest.fixture(params=["raw", "encoded"])
def make_rig(request, store):
    """Makes engines over one store, one after the other."""

    def make():
        def backend(_config, context):
            return DictBackend(DictConfig(), context, store)

        capabilities = DictBackend.capabilities | Capability.DURABLE
        return Rig(
            storage=[storage_spec("dict", backend, capabilities)],
            groups=CLEARED,
            offers=[ZLIB],
            tier_fields={"dict": chain("zlib") if request.param == "encoded" else {}},
        )

    return make


@pytest.mark.parametrize("length", LENGTHS)
def test_a_tail_comes_back_from_below(make_rig, length):
    tokens = list(range(500, 500 + length))
    with make_rig() as rig:
        rig.serve(tokens)
        settle(rig)
        assert below(rig).entries == -(-length // CHUNK_TOKENS)
        flood(rig)
        assert rig.serve(tokens) == length - 1  # the rig compares the bytes
        assert rig.hit(tokens[:-1]) >= (length - 1) // CHUNK_TOKENS * CHUNK_TOKENS
        with rig.engine.tiers.lock:
            rig.engine.tiers.pins.pin(ask(tokens, location="dict"))
        assert report(rig).tokens_pinned == length


@pytest.mark.parametrize("length", LENGTHS)
def test_a_restarted_engine_finds_it_and_says_nothing_of_it_that_is_not_so(make_rig, length):
    tokens = list(range(500, 500 + length))
    with make_rig() as rig:
        rig.serve(tokens)
        settle(rig)
    with make_rig() as rig:
        assert rig.engine.tiers.covered(ask(tokens).tokens, Scope())["dict"] == length
        assert rig.hit(tokens) == length
    with make_rig() as rig:
        # Nobody has asked how many tokens the frames have.
        cleared = rig.engine.tiers.drop("dict", rig.engine.tiers.keys("dict"), force=False)
        assert 0 < cleared <= length


def test_no_byte_of_another_tenant_leaves_host_memory(make_rig, store):
    with make_rig() as rig:
        for length in LENGTHS:
            rig.serve(list(range(1000 * length, 1001 * length)))
        settle(rig)
        assert all(GARBAGE[:2] not in frame for frame in store.frames.values())


def test_a_tail_is_moved_as_asked(make_rig):
    from lmcache_core.engine.control.moving import Move

    tokens = list(range(6))
    with make_rig() as rig:
        rig.serve(tokens)
        settle(rig)
        tiers = rig.engine.tiers
        tiers.drop("dict", tiers.keys("dict"), force=True)
        settle(rig)
        move = Move(
            tiers,
            MEMORY,
            "dict",
            tiers.chain_of(ask(tokens).tokens, Scope()),
            keep=True,
            name="m",
            progressed=lambda: None,
        )
        while not move.advance():
            settle(rig)
        move.end()
        assert move.moved_tokens == 6
