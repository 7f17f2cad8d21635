"""Chunks of a storage tier encoded in another way where they are, and none lost by it."""

from __future__ import annotations

import re
import threading
import time

import pytest

from lmcache_core.api import Capability
from lmcache_core.api.frames import HEADER_BYTES
from lmcache_core.api.messages import RecodeCommand
from lmcache_core.config import TierRules
from lmcache_core.engine.control.commands import CommandRunner
from lmcache_core.engine.frames.header import FrameHeader
from lmcache_core.engine.storage import recoder
from lmcache_core.engine.storage.recast import Outcome
from lmcache_core.errors import BackendError
from lmcache_core.keys import tokens_to_bytes
from lmcache_core.testing import DictStore, FaultyBackend
from lmcache_core.testing.faults import Fault
from tests.engine.hybrid_rig import HybridRig, windows
from tests.engine.rig import BLOCK_TOKENS, CHUNK_TOKENS, Rig, storage_spec
from tests.engine.serdes import SIGNED, ZLIB, Zlib, chain, serde_spec
from tests.engine.test_kept_frames import KEPT, Kept
from tests.engine.test_pins import MEMORY, ask
from tests.engine.test_storage_tier import LONG, below, flood, settle

BLOCK_BYTES = 4096
FRAME_BYTES = HEADER_BYTES + CHUNK_TOKENS // BLOCK_TOKENS * BLOCK_BYTES
WRITABLE = KEPT | Capability.REPLACE
SHARED = Capability.DURABLE | Capability.SHARED | Capability.REPLACE


def rig_over(store, *serdes, offers=(ZLIB, SIGNED), capabilities=WRITABLE, make=Rig, **fields):
    """An engine over a store that is kept."""
    backend = fields.pop("backend", None) or Kept(store)
    spec = storage_spec("dict", lambda _config, _context: backend, capabilities)
    fields = {"block_bytes": BLOCK_BYTES, "chunks": 8} | fields
    return make(storage=[spec], offers=offers, tier_fields={"dict": chain(*serdes)}, **fields)


class Asker:
    """What the control agent does with a command that takes its time."""

    def __init__(self, rig):
        self.runner = CommandRunner(rig.engine, "rig", 1)
        self.woken = threading.Event()
        rig.engine.settled = self.woken.set
        self.number = 0

    def __call__(self, *serdes, tokens=(), seconds=10.0, location="dict", **fields):
        self.number += 1
        command = RecodeCommand(
            request_id=str(self.number),
            deadline_seconds=seconds,
            location=location,
            serdes=serdes,
            tokens=tokens_to_bytes(tokens),
            **fields,
        )
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.runner.must_wait(command):
            self.woken.wait(0.01)  # As the agent looks again with every tick.
            self.woken.clear()
        return self.runner.run(command)


def chunks(reply):
    """The chunks by what became of them."""
    found = {name: n for name, n in reply.facts.items() if name.endswith("_chunks")}
    return {name.removesuffix("_chunks"): n for name, n in found.items() if n}


def forms(store):
    """The serdes that each frame was encoded by."""
    return [FrameHeader.parse(memoryview(frame)).serdes for frame in store.frames.values()]


def exact(rig, store):
    """Whether the tier's account is that of its store."""
    with rig.engine.tiers.lock:
        residents = rig.engine.tiers.storage[0].residents
        sizes = {key: residents.size(key) for key in residents}
        pinned = sum(residents.size(key) for key in residents if residents.marked(key))
        return (
            sizes == {key: len(frame) for key, frame in store.frames.items()}
            and residents.used_bytes == sum(sizes.values())
            and (residents.pinned_bytes, residents.reserved_bytes) == (pinned, 0)
        )


@pytest.fixture
def store():
    return DictStore()


@pytest.fixture
def rig(store):
    with rig_over(store) as made:
        made.serve(LONG)
        settle(made)
        yield made


def test_what_is_compressed_is_shorter_and_served_and_comes_back_as_it_was(rig, store):
    before = dict(store.frames)
    recode = Asker(rig)
    reply = recode("zlib", tokens=LONG)
    assert (reply.error, reply.num_tokens, chunks(reply)) == (None, len(LONG), {"recoded": 4})
    assert forms(store) == [("zlib",)] * 4
    assert reply.facts["saved_bytes"] == 4 * FRAME_BYTES - below(rig).used_bytes > 0
    assert exact(rig, store)
    flood(rig)
    assert rig.serve(LONG) == len(LONG) - 1
    again = recode("zlib", tokens=LONG)
    assert (again.num_tokens, chunks(again)) == (0, {"unchanged": 4})
    reply = recode("zlib", tokens=LONG, undo=True)
    assert (reply.num_tokens, reply.facts["saved_bytes"] < 0) == (len(LONG), True)
    for key, frame in before.items():
        assert store.frames[key][HEADER_BYTES:] == frame[HEADER_BYTES:]
    assert exact(rig, store)
    flood(rig)
    assert rig.serve(LONG) == len(LONG) - 1


def test_no_tokens_are_all_that_the_tier_has(rig, store):
    other = list(range(900, 900 + 2 * CHUNK_TOKENS))
    rig.serve(other)
    settle(rig)
    reply = Asker(rig)("zlib")
    assert (reply.num_tokens, chunks(reply)) == (len(LONG) + len(other), {"recoded": 6})
    assert set(forms(store)) == {("zlib",)}


def test_of_some_tokens_only_what_is_there_counts(rig, store):
    tokens = [*LONG[: 2 * CHUNK_TOKENS], *range(7000, 7000 + CHUNK_TOKENS)]
    reply = Asker(rig)("zlib", tokens=tokens)
    assert (reply.num_tokens, chunks(reply)) == (2 * CHUNK_TOKENS, {"recoded": 2, "missing": 1})
    assert sorted(forms(store)) == [(), (), ("zlib",), ("zlib",)]


def test_a_restart_reads_both_forms_whatever_the_tiers_own_chain(store):
    with rig_over(store) as rig:
        rig.serve(LONG)
        settle(rig)
        Asker(rig)("zlib", tokens=LONG[: 2 * CHUNK_TOKENS])
    other = serde_spec("other", Zlib)
    for serdes in ((), ("zlib",), ("other",)):
        with rig_over(store, *serdes, offers=(ZLIB, other)) as rig:
            assert rig.serve(LONG) == len(LONG) - 1
            assert exact(rig, store)
            counters = rig.engine.tiers.storage[0].counters
            assert counters["foreign_frames"] == counters["damaged_frames"] == 0
    assert sorted(forms(store)) == [(), (), ("zlib",), ("zlib",)]


def test_frames_found_again_are_not_written_over(store):
    """What is known of a kept frame is its length, which is no raw one's."""
    with rig_over(store) as rig:
        rig.serve(LONG)
        settle(rig)
        Asker(rig)("zlib")
    kept = dict(store.frames)
    with rig_over(store) as rig:
        rig.serve(LONG)
        settle(rig)
        flood(rig)
        assert rig.serve(LONG) == len(LONG) - 1
        assert kept.items() <= store.frames.items()


def test_what_was_compressed_and_found_again_goes_down_whole(store):
    with rig_over(store) as rig:
        rig.serve(LONG)
        settle(rig)
        Asker(rig)("zlib")
        used = below(rig).used_bytes
    lower = DictStore()
    specs = [
        storage_spec("dict", lambda _config, _context: Kept(store), WRITABLE),
        storage_spec("lower", lambda _config, _context: Kept(lower), WRITABLE),
    ]
    fields = {
        "dict": {"capacity_bytes": used + FRAME_BYTES - 1},
        "lower": {"rules": TierRules(write="back")},
    }
    with Rig(
        chunks=8,
        staging_chunks=4,
        storage=specs,
        offers=(ZLIB,),
        block_bytes=BLOCK_BYTES,
        tier_fields=fields,
    ) as rig:
        rig.serve(list(range(3000, 3000 + CHUNK_TOKENS)))
        settle(rig)
        settle(rig)
        assert lower.frames
        assert set(forms(lower)) == {()}
        assert rig.serve(LONG) == len(LONG) - 1


def test_a_tier_with_a_chain_encodes_in_another_and_reads_all(store):
    with rig_over(store, "zlib", offers=(ZLIB, serde_spec("other", Zlib))) as rig:
        rig.serve(LONG)
        settle(rig)
        recode = Asker(rig)
        assert recode("other", tokens=LONG).num_tokens == 0, "it would be no shorter"
        assert recode("zlib", tokens=LONG[:CHUNK_TOKENS], undo=True).num_tokens == CHUNK_TOKENS
        assert recode("other", tokens=LONG).num_tokens == CHUNK_TOKENS
        assert sorted(forms(store)) == [("other",), *[("zlib",)] * 3]
        assert exact(rig, store)
        flood(rig)
        assert rig.serve(LONG) == len(LONG) - 1


def test_only_what_the_method_encoded_is_undone(rig, store):
    recode = Asker(rig)
    recode("zlib", tokens=LONG[:CHUNK_TOKENS])
    other = recode("zlib", "signed", undo=True)
    assert (other.error, "authenticates" in other.detail) == ("conflict", True)
    reply = recode("zlib", undo=True)
    assert (reply.num_tokens, chunks(reply)) == (CHUNK_TOKENS, {"recoded": 1, "unchanged": 3})


def test_where_a_chain_authenticates_only_its_own_forms_are_written(store):
    with rig_over(store, "zlib", "signed") as rig:
        rig.serve(LONG)
        settle(rig)
        recode = Asker(rig)
        for serdes, undo in ((("zlib",), False), (("zlib", "signed"), True)):
            reply = recode(*serdes, undo=undo)
            assert (reply.error, reply.num_tokens) == ("conflict", 0)
            assert "zlib,signed" in reply.detail
        assert forms(store) == [("zlib", "signed")] * 4
    with rig_over(store, "zlib", "signed") as rig:
        store.frames.clear()
    with rig_over(store, "signed") as rig:
        rig.serve(LONG)
        settle(rig)
    with rig_over(store, "zlib", "signed") as rig:
        assert Asker(rig)("zlib", "signed").num_tokens == len(LONG)
        assert forms(store) == [("zlib", "signed")] * 4
        assert rig.serve(LONG) == len(LONG) - 1


@pytest.mark.parametrize("location", ["dict", "any"])
def test_what_is_pinned_stays_pinned_and_is_counted_to_the_byte(store, location):
    # A store that is not durable, which keeps nothing of the pin itself.
    with rig_over(store, capabilities=WRITABLE & ~Capability.DURABLE) as rig:
        rig.serve(LONG)
        settle(rig)
        pins = rig.engine.tiers.pins
        with rig.engine.tiers.lock:
            assert pins.pin(ask(LONG, location=location, pin_id="p")).tokens_pinned == len(LONG)
            pins.take_changed()
        recode = Asker(rig)
        assert recode("zlib").num_tokens == len(LONG)
        with rig.engine.tiers.lock:
            (report,) = pins.take_changed()
        used = sum(map(len, store.frames.values()))
        assert (report.tokens_pinned, report.pinned_bytes) == (len(LONG), used)
        assert exact(rig, store)
        with rig.engine.tiers.lock:
            residents = rig.engine.tiers.storage[0].residents
            residents.capacity_bytes, residents.pin_limit_bytes = 1 << 30, used + FRAME_BYTES
        reply = recode("zlib", undo=True)
        assert 0 < reply.num_tokens < len(LONG), "pins take no more than they may"
        assert chunks(reply).keys() == {"recoded", "full"}
        assert exact(rig, store)
        assert residents.pinned_bytes <= residents.pin_limit_bytes
        with rig.engine.tiers.lock:
            assert pins.report("p").tokens_pinned == len(LONG)
            pins.unpin("p", 1)
        assert exact(rig, store)


def test_a_longer_frame_evicts_others_and_never_itself():
    store = DictStore()
    with rig_over(store, storage_chunks=4) as rig:
        rig.serve(LONG)
        settle(rig)
        recode = Asker(rig)
        recode("zlib")
        more = list(range(2000, 2000 + 3 * CHUNK_TOKENS))
        rig.serve(more)
        settle(rig)
        assert below(rig).entries == 7
        reply = recode("zlib", tokens=LONG, undo=True)
        assert reply.num_tokens > 0
        assert below(rig).used_bytes <= 4 * FRAME_BYTES
        assert exact(rig, store)


@pytest.mark.parametrize(
    ("location", "serdes", "error", "words"),
    [
        (MEMORY, ("zlib",), "conflict", "host memory.*storage tier: dict"),
        ("nowhere", ("zlib",), "unknown_location", "dict"),
        ("dict", ("zlip",), "unknown_location", "zlib"),
        ("dict", ("zlib", "zlib"), "invalid", "twice"),
        ("dict", ("signed",), "conflict", "authenticates"),
    ],
)
def test_what_cannot_be_is_a_sentence(rig, store, location, serdes, error, words):
    before = dict(store.frames)
    reply = Asker(rig)(*serdes, location=location)
    assert (reply.error, reply.num_tokens) == (error, 0)
    assert re.search(words, reply.detail)
    assert store.frames == before


def test_a_store_that_cannot_replace_is_left_alone(store):
    with rig_over(store, capabilities=KEPT) as rig:
        rig.serve(LONG)
        settle(rig)
        reply = Asker(rig)("zlib")
        assert reply.error == "conflict"
        assert "REPLACE" in reply.detail


class Longer(Zlib):
    def encode(self, key, payload):
        return bytes(payload) + b"!"

    def decode(self, key, stored, payload):
        payload[:] = stored[:-1]


class Refusing(Zlib):
    def encode(self, key, payload):
        raise ValueError("never of that length")


class Lying(Zlib):
    def decode(self, key, stored, payload):
        super().decode(key, stored, payload)
        payload[-1] ^= 1


@pytest.mark.parametrize(
    ("serde", "outcome"), [(Longer, "not_shorter"), (Refusing, "refused"), (Lying, "refused")]
)
def test_what_a_serde_does_not_shorten_or_give_back_stays_as_it_is(store, serde, outcome):
    with rig_over(store, offers=(serde_spec("bad", serde),)) as rig:
        rig.serve(LONG)
        settle(rig)
        before = dict(store.frames)
        reply = Asker(rig)("bad")
        assert (reply.error, reply.num_tokens, chunks(reply)) == (None, 0, {outcome: 4})
        assert store.frames == before
        assert exact(rig, store)


class Refuses(Fault):
    """A store that says no to each second frame."""

    def __init__(self):
        self.calls = 0

    def answer(self, call):
        self.calls += 1
        return call.make() if self.calls % 2 else [False]


class Breaks(Fault):
    """A store that does it, and then does not answer."""

    def answer(self, call):
        call.make()
        message = "the connection was lost"
        raise BackendError(message)


@pytest.mark.parametrize(("fault", "tokens"), [(Refuses, 2 * CHUNK_TOKENS), (Breaks, 0)])
def test_a_store_that_fails_is_said_and_loses_nothing(store, monkeypatch, fault, tokens):
    backend = FaultyBackend(Kept(store), fault(), {"replace"})
    monkeypatch.setattr("lmcache_core.engine.storage.breaker.FIRST_PAUSE_SECONDS", 0.0)
    with rig_over(store, backend=backend) as rig:
        rig.serve(LONG)
        settle(rig)
        reply = Asker(rig)("zlib", seconds=5)
        assert reply.error == "internal"
        assert reply.num_tokens == tokens
        assert reply.facts["failed_chunks"] == 4 - tokens // CHUNK_TOKENS
        assert exact(rig, store)
        flood(rig)
        assert rig.serve(LONG) == len(LONG) - 1


def test_a_damaged_frame_is_not_made_a_good_one(rig, store):
    key = next(iter(store.frames))
    frame = bytearray(store.frames[key])
    frame[-1] ^= 1
    store.frames[key] = bytes(frame)
    reply = Asker(rig)("zlib")
    assert (reply.error, reply.num_tokens) == ("internal", 3 * CHUNK_TOKENS)
    assert store.frames[key] == frame


def test_what_is_dropped_meanwhile_stays_dropped(rig, store):
    tier = rig.engine.tiers.storage[0]
    gate, began = threading.Event(), threading.Event()

    class Waits(Fault):
        def answer(self, call):
            began.set()
            assert gate.wait(10)
            return call.make()

    tier._calls._backend = FaultyBackend(tier._calls._backend, Waits(), {"replace"})
    asker = threading.Thread(target=Asker(rig), args=("zlib",))
    asker.start()
    assert began.wait(10)
    rig.engine.tiers.drop("dict", rig.engine.tiers.keys("dict"), force=True)
    gate.set()
    asker.join()
    settle(rig)
    assert store.frames == {}
    assert exact(rig, store)


def test_a_burst_is_short_and_the_next_one_is_put_off_for_as_long_as_it_took(store):
    now = [0.0]

    class Slow(Zlib):
        def encode(self, key, payload):
            now[0] += recoder.BURST_SECONDS
            return super().encode(key, payload)

    with rig_over(store, offers=(serde_spec("slow", Slow),)) as rig:
        rig.serve(LONG)
        settle(rig)
        tier, lock = rig.engine.tiers.storage[0], rig.engine.tiers.lock
        tier.recoder._clock = lambda: now[0]
        recast = tier.recoder.recast(("slow",), undo=False)
        keys = list(store.frames)

        def begin(done=lambda _recoded: None):
            with lock:
                return tier.recoder.recode(keys, recast, done)

        took = []
        with lock:
            assert begin(took.extend)
            assert not begin(), "one at a time"
        settle(rig)
        assert [one.outcome for one in took] == [Outcome.RECODED]
        assert sorted(forms(store)) == [(), (), (), ("slow",)]
        assert not begin(), "it is too soon"
        now[0] += recoder.BURST_SECONDS * 0.99
        assert not begin()
        now[0] += recoder.BURST_SECONDS * 0.02
        assert begin()
        settle(rig)


def test_a_deadline_says_how_far_it_is(rig, store):
    rig.engine.tiers.storage[0].recoder._clock = lambda: -1.0  # It is never due.
    reply = Asker(rig)("zlib", seconds=0.1)
    assert (reply.error, reply.num_tokens) == ("deadline", 0)
    assert reply.facts["left_chunks"] == 4
    assert "ask again" in reply.detail
    assert set(forms(store)) == {()}


def test_in_a_shared_store_what_others_put_there_is_encoded_too(store):
    with rig_over(store, capabilities=SHARED) as rig:
        rig.serve(LONG)
        settle(rig)
    with rig_over(store, capabilities=SHARED) as rig, rig_over(store, capabilities=SHARED) as other:
        assert Asker(rig)("zlib", tokens=LONG).num_tokens == len(LONG)
        assert forms(store) == [("zlib",)] * 4
        assert other.serve(LONG) == len(LONG) - 1


@pytest.mark.parametrize("serdes", [(), ("zlib",)])
def test_chunks_with_holes_keep_them(serdes):
    groups = windows((4, None), (4, 5), token_bytes=512)
    store = DictStore()
    fields = {"make": HybridRig, "groups": groups}
    with rig_over(store, *serdes, **fields) as rig:
        hit = rig.serve(LONG, local=len(LONG) - BLOCK_TOKENS)
        settle(rig)
        reply = Asker(rig)("zlib", undo=bool(serdes))
        assert reply.num_tokens > 0
        assert exact(rig, store)
    with rig_over(store, *serdes, **fields) as rig:
        assert rig.serve(LONG) >= hit
        settle(rig)
        assert rig.engine.tiers.storage[0].counters["foreign_frames"] == 0
        assert exact(rig, store)
