"""What is kept of chunks is no one table of them all, which would be copied to grow."""

from __future__ import annotations

import threading

from lmcache_core.api.connector import KVGroup
from lmcache_core.api.pins import OnMissing, PinRequest
from lmcache_core.config import ANYWHERE
from lmcache_core.engine.chunks.geometry import Geometry
from lmcache_core.engine.chunks.residents import Residents
from lmcache_core.engine.storage.frame_book import Facts, FrameBook
from lmcache_core.engine.storage.holdings import Holdings, Known
from lmcache_core.keys import EMPTY_SCOPE, tokens_to_bytes
from lmcache_core.plugins import PluginRegistry
from lmcache_core.testing.material import sample_key
from lmcache_core.testing.tables import largest_table
from tests.engine.rig import CHUNK_TOKENS, Rig

PROMPT_CHUNKS = 32
CHUNKS = 1 << 13
MOST = CHUNKS // 2
"""Keys in one table, where there are twice as many."""

MEMORY = "LocalCPUBackend"


def prompt(number):
    """Whole chunks that no other prompt has."""
    count = PROMPT_CHUNKS * CHUNK_TOKENS
    return list(range(number * count, (number + 1) * count))


def store(engine, tokens):
    engine.begin("r", tokens, EMPTY_SCOPE)
    engine.match("r", len(tokens))
    job = engine.plan_store("r", len(tokens), [range(len(tokens))], final=True)
    engine.acknowledge([job.job_id])
    engine.finish("r")


def pin(rig, tokens, pin_id, location):
    request = PinRequest(
        pin_id=pin_id,
        version=1,
        location=location,
        tokens=tokens_to_bytes(tokens),
        on_missing=OnMissing.RESERVE,
    )
    rig.engine.tiers.pins.pin(request)


def test_tables_of_an_engine_stay_short_whatever_comes_and_is_pinned():
    prompts = range(CHUNKS // PROMPT_CHUNKS)
    with Rig(chunks=CHUNKS, overrides={"pin_share": 1.0}) as rig:
        tiers = rig.engine.tiers
        for number in prompts:
            pin(rig, prompt(number), f"here{number}", MEMORY)
            pin(rig, prompt(number), f"any{number}", ANYWHERE)
        assert largest_table(rig.engine) <= MOST
        for number in prompts:
            store(rig.engine, prompt(number))
        assert len(tiers.memory.index) == CHUNKS
        for number in prompts:
            assert tiers.pins.unpin(f"here{number}", 1) == PROMPT_CHUNKS * CHUNK_TOKENS
        assert largest_table(rig.engine) <= MOST
        for number in prompts:
            assert tiers.pins.unpin(f"any{number}", 1) == PROMPT_CHUNKS * CHUNK_TOKENS
        # Of three neighbours the middle one stays, so that the free runs of the pool are many.
        keys = [key for number, key in enumerate(tiers.keys(MEMORY)) if number % 3]
        tiers.drop(MEMORY, keys, force=False)
        assert len(tiers.memory.index) == CHUNKS - len(keys)
        assert largest_table(rig.engine) <= MOST


def test_tables_of_what_a_store_has_stay_short():
    policy = PluginRegistry.discover().eviction_policy("LRU")
    residents = Residents(0, policy.load()(policy.config()))
    book = FrameBook(Geometry([KVGroup(16, 4096)]), 256, None, residents)
    holdings = Holdings("dict", residents, book, threading.RLock())
    for number in range(CHUNKS):
        holdings.take(Known(sample_key(number), 8192, Facts(256)))
        holdings.note_foreign(sample_key(CHUNKS + number))
    assert len(residents) == CHUNKS
    assert largest_table(holdings) <= MOST
