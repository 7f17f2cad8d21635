"""Several KV groups: what a window leaves behind, and what becomes of it."""

from __future__ import annotations

import pytest

from lmcache_core.api import Capability
from lmcache_core.api.connector import NULL_BLOCK, KVGroup
from lmcache_core.api.frames import HEADER_BYTES
from lmcache_core.api.pins import OnMissing
from lmcache_core.engine.chunks.entry import Entry
from lmcache_core.engine.chunks.geometry import Geometry, check_chunk
from lmcache_core.engine.chunks.piece import Piece
from lmcache_core.errors import ConfigError
from lmcache_core.testing import DictBackend, DictConfig, DictStore
from tests.engine.hybrid_rig import HybridRig, windows
from tests.engine.rig import CHUNK_TOKENS, storage_spec
from tests.engine.test_pins import MEMORY, ask
from tests.engine.test_storage_tier import settle, settle_reads

GROUPS = windows((4, None), (2, 7))
LONG = list(range(48))


@pytest.fixture
def rig():
    with HybridRig(groups=GROUPS) as rig:
        yield rig


def store_of(store):
    return storage_spec(
        "dict", lambda _config, context: DictBackend(DictConfig(), context, store), Capability.SCAN
    )


def pages(rig, place, tokens=LONG):
    """The pages of a chunk of a prompt, as bits of the windowed group; None for all."""
    chain = rig.engine.tiers.chain_of(ask(tokens).tokens, ask(tokens).scope)
    entry = rig.engine.tiers.memory.index.get(chain.keys[place])
    return entry.pages and entry.pages[1]


def test_what_had_gone_when_a_chunk_was_full_is_a_hole(rig):
    rig.serve(LONG, steps=12)
    # The second chunk was full in the step from token 24 on, whose window starts at 18.
    assert [pages(rig, place) for place in range(3)] == [0b11111000, 0b11111110, None]
    assert rig.hit(LONG) == 48
    # Pages 10 and 11 of the window would be 5 to 10 tokens back.
    for shared, expected in ((47, 47), (40, 40), (33, 33), (24, 24), (22, 16), (16, 16), (11, 0)):
        other = [*LONG[:shared], *range(900, 910)]
        assert rig.hit(other) == expected, shared


def test_pages_that_are_not_there_take_no_room(rig):
    rig.serve(LONG[:16], local=12)
    memory = rig.engine.tiers.memory
    slot = memory.index[next(iter(memory.residents))].slot
    assert slot.nbytes == 8192
    job_bytes = Geometry(GROUPS).payload_bytes(16, (0b1111, 0b11110000))
    assert Geometry(GROUPS).payload_bytes(16) - job_bytes == 4 * GROUPS[1].block_bytes


def test_groups_follow_one_another_without_gaps():
    with HybridRig(groups=windows((2, 7), (4, None), (4, 5))) as rig:
        rig.serve(LONG, steps=12)  # the rig looks at the layout of what is stored
        assert rig.serve(LONG) == 47


def test_a_model_of_windows_only_is_served():
    with HybridRig(groups=windows((4, 6))) as rig:
        assert rig.serve(LONG, steps=12) == 0
        assert rig.serve(LONG) == 47
        assert rig.serve([*LONG, 7, 8, 9], local=44) == 48


def test_a_load_leaves_alone_what_the_engine_has_no_room_for(rig):
    rig.serve(LONG, steps=16)
    name = rig.begin(LONG)
    assert rig.wait_match(name, 47) == 47
    tables = rig.tables_for(48, computed=47)
    job = rig.engine.plan_load(name, 0, 47, tables)
    moved = [block for copy in job.copies if copy.group for block in copy.block_ids]
    assert moved == [block for block in tables[1] if block != NULL_BLOCK]
    assert len(moved) == 4


def test_a_load_that_a_window_is_not_there_for_is_not_planned(rig):
    rig.serve(LONG, steps=12)
    name = rig.begin(LONG)
    assert rig.wait_match(name, 48) == 48
    # Nobody asks for less than was offered; the pages before token 6 are gone.
    assert rig.engine.plan_load(name, 0, 8, rig.tables_for(48, computed=8)) is None


def test_the_fuller_copy_of_a_chunk_stays(rig):
    rig.serve(LONG, local=40)
    assert [pages(rig, place) for place in range(3)] == [0, 0, 0b11111110]
    used = rig.engine.tiers.memory.residents.used_bytes
    # From nothing, in one step: every page is there.
    rig.serve(LONG[:32], local=0)
    assert [pages(rig, place) for place in range(2)] == [None, None]
    assert rig.engine.tiers.memory.residents.used_bytes == used, "each takes a slot all the same"
    rig.serve(LONG, local=40)
    assert [pages(rig, place) for place in range(2)] == [None, None]
    assert len(rig.engine.tiers.memory.index) == 3


def test_the_controller_hears_of_no_eviction_when_a_fuller_copy_comes(rig):
    tiers = rig.engine.tiers
    tiers.events.enable()
    rig.serve(LONG, local=40)
    rig.serve(LONG[:32])
    assert pages(rig, 0) is None
    told = tiers.events.take(100)
    assert all(event.admitted for event in told)
    assert sorted(event.key for event in told) == sorted(tiers.memory.residents)


def test_a_poorer_copy_that_comes_late_is_dropped(rig):
    rig.serve(LONG[:16])
    tiers = rig.engine.tiers
    (key,) = tiers.memory.residents
    entry = tiers.memory.index[key]
    slot = tiers.memory.allocate(entry.slot.nbytes)
    piece = Piece(entry.key, entry.parent, entry.token_bytes, 0)
    late = Entry(piece, slot, "dict", (0b1111, 0b11110000))
    tiers.admit(late)
    assert late.dropped
    assert pages(rig, 0) is None


def test_a_pin_holds_through_the_exchange_and_reports_what_may_be_a_hit(rig):
    tiers = rig.engine.tiers
    rig.serve(LONG, local=40)
    assert tiers.pins.pin(ask(LONG)).tokens_pinned == 48
    assert tiers.pins.pin(ask(LONG[:20], "short")).tokens_pinned == 0
    rig.serve(LONG[:20])
    # The chunk that its tail is a part of is there already, without its window.
    assert rig.hit(LONG[:20]) == 16
    assert tiers.pins.report("p").tokens_pinned == 48
    assert all(tiers.memory.residents.marked(key) for key in tiers.memory.residents)
    # Without its last chunk, the longest prefix with a whole window ends at the first.
    last = tiers.chain_of(ask(LONG).tokens, ask(LONG).scope).keys[2]
    tiers.drop(MEMORY, [last], force=True)
    assert tiers.pins.report("p").tokens_pinned == rig.hit(LONG) == 16


def test_a_poorer_chunk_takes_no_pinned_tails_place(rig):
    tiers = rig.engine.tiers
    rig.serve(LONG[:9])
    assert tiers.pins.pin(ask(LONG[:9])).tokens_pinned == 9
    rig.serve(LONG[:16], local=14)
    assert rig.hit(LONG[:9]) == tiers.pins.report("p").tokens_pinned == 9
    tiers.pins.unpin("p", 1)
    rig.serve(LONG[:16], local=14)
    assert (rig.hit(LONG[:16]), rig.hit(LONG[:9])) == (16, 0)


def test_a_reserved_piece_is_marked_when_a_fuller_copy_comes(rig):
    tiers = rig.engine.tiers
    rig.serve(LONG, local=40)
    report = tiers.pins.pin(ask(LONG[:8], on_missing=OnMissing.RESERVE))
    assert report.tokens_pinned == 0
    rig.serve(LONG[:32])
    assert tiers.pins.report("p").tokens_pinned == 8


def test_a_store_keeps_the_fuller_copy_too():
    store = DictStore()
    with HybridRig(groups=GROUPS, storage=[store_of(store)]) as rig:
        tiers = rig.engine.tiers
        rig.serve(LONG, local=40)
        settle(rig)
        short = {key: len(frame) for key, frame in store.frames.items()}
        assert tiers.covered(ask(LONG).tokens, ask(LONG).scope) == {MEMORY: 48, "dict": 48}
        assert tiers.covered(ask(LONG[:32]).tokens, ask(LONG).scope) == {MEMORY: 0, "dict": 0}
        rig.serve(LONG[:32])
        settle(rig)
        longer = {key: len(frame) for key, frame in store.frames.items()}
        first, second, third = tiers.chain_of(ask(LONG).tokens, ask(LONG).scope).keys
        assert (longer[first], longer[second]) == (
            short[first] + 8 * GROUPS[1].block_bytes,
            short[second] + 8 * GROUPS[1].block_bytes,
        )
        assert longer[third] == short[third]
        assert tiers.covered(ask(LONG[:32]).tokens, ask(LONG).scope) == {MEMORY: 32, "dict": 32}
        assert tiers.storage[0].residents.used_bytes == sum(longer.values())


def test_a_store_gives_back_the_pages_that_memory_has_lost():
    store = DictStore()
    with HybridRig(groups=GROUPS, storage=[store_of(store)]) as rig:
        tiers = rig.engine.tiers
        rig.serve(LONG)
        settle(rig)
        tiers.drop(MEMORY, tiers.keys(MEMORY), force=False)
        for _ in range(10):
            tiers.storage[0].breaker.failed()
        rig.serve(LONG, local=40)
        assert pages(rig, 0) == 0
        tiers.storage[0].breaker.succeeded()
        assert rig.serve(LONG[:32]) == 31
        settle_reads(rig)
        assert pages(rig, 0) is None


def test_holes_survive_a_restart():
    store = DictStore()
    with HybridRig(groups=GROUPS, storage=[store_of(store)]) as rig:
        rig.serve(LONG, steps=12)
        settle(rig)
    with HybridRig(groups=GROUPS, storage=[store_of(store)]) as rig:
        tiers = rig.engine.tiers
        # Which pages are there is not known before the frame is read, but where it has them all.
        assert tiers.covered(ask(LONG).tokens, ask(LONG).scope)["dict"] == 48
        assert tiers.covered(ask(LONG[:32]).tokens, ask(LONG).scope)["dict"] == 0
        assert rig.serve(LONG) == 47
        settle_reads(rig)
        assert [pages(rig, place) for place in range(3)] == [0b11111000, 0b11111110, None]
        assert tiers.covered(ask(LONG[:32]).tokens, ask(LONG).scope)["dict"] == 32
        assert tiers.storage[0].counters["damaged_frames"] == 0


def test_a_frame_of_an_impossible_length_is_read_as_one_of_its_chunk():
    store = DictStore()
    with HybridRig(groups=GROUPS, storage=[store_of(store)]) as rig:
        rig.serve(LONG)
        settle(rig)
    lengths = iter((1, HEADER_BYTES + 3, 100_000))
    for key, frame in store.frames.items():
        store.frames[key] = (frame * 30)[: next(lengths)]
    with HybridRig(groups=GROUPS, storage=[store_of(store)]) as rig:
        assert rig.serve(LONG) == 0
        settle_reads(rig)
        assert rig.serve(LONG) == 47


def test_a_chunk_has_to_fit_the_blocks_of_all_groups():
    check_chunk(Geometry(windows((4, None), (6, 9))), 24)
    with pytest.raises(ConfigError, match="end together after 12 tokens"):
        check_chunk(Geometry(windows((4, None), (6, 9))), 16)
    with pytest.raises(ConfigError, match="the most are 16384"):
        check_chunk(Geometry([KVGroup(1, 1)]), 20_000)
    with pytest.raises(ConfigError), HybridRig(groups=windows((5, None))):
        pass
    assert CHUNK_TOKENS == 16
