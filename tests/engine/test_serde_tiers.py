"""A storage tier with serdes: shorter frames, the same bytes, and nothing that was not sealed."""

from __future__ import annotations

import struct
import zlib

import pytest
import xxhash

from lmcache_core.api import Capability, KVSpec
from lmcache_core.api.frames import HEADER_BYTES
from lmcache_core.engine.frames import encoded as encoded_frames
from lmcache_core.engine.frames.header import FrameHeader
from lmcache_core.errors import BackendError, ConfigError, UnknownNameError
from lmcache_core.keys import Scope
from lmcache_core.testing import DictStore
from tests.engine.hybrid_rig import HybridRig, windows
from tests.engine.rig import BLOCK_TOKENS, CHUNK_TOKENS, Rig, storage_spec
from tests.engine.serdes import SIGNED, ZLIB, Signed, Zlib, chain, serde_spec
from tests.engine.test_kept_frames import KEPT, Kept
from tests.engine.test_pins import ask
from tests.engine.test_storage_tier import LONG, below, flood, settle, settle_reads

BLOCK_BYTES = 4096
RAW_BYTES = CHUNK_TOKENS // BLOCK_TOKENS * BLOCK_BYTES
SHARED = Capability.DURABLE | Capability.SHARED
BOTH = ("zlib", "signed")


def rig_with(store, *serdes, offers=(ZLIB, SIGNED), capabilities=KEPT, make=Rig, **fields):
    """An engine over a store that is kept, with a chain of serdes."""
    backend = Kept(store)
    spec = storage_spec("dict", lambda _config, _context: backend, capabilities)
    fields = {"block_bytes": BLOCK_BYTES} | fields
    tier_fields = {"dict": chain(*serdes)}
    return make(chunks=8, storage=[spec], offers=offers, tier_fields=tier_fields, **fields)


def kept(*serdes, **fields):
    """What an engine has left behind of a prompt of four chunks."""
    store = DictStore()
    with rig_with(store, *serdes, **fields) as rig:
        rig.serve(LONG)
        settle(rig)
        assert below(rig).entries == 4
    return store


def counters(rig):
    return rig.engine.tiers.storage[0].counters


def reseal(frame):
    """Make the checksums of a changed frame right again."""
    frame[152:160] = struct.pack("<Q", xxhash.xxh3_64_intdigest(frame[HEADER_BYTES:]))
    check = xxhash.xxh3_64(frame[:160])
    check.update(frame[168:HEADER_BYTES])
    frame[160:168] = struct.pack("<Q", check.intdigest())


@pytest.mark.parametrize("serdes", [("zlib",), ("signed",), BOTH, ("signed", "zlib")])
def test_what_was_encoded_comes_back_and_survives_a_restart(serdes):
    store = DictStore()
    with rig_with(store, *serdes) as rig:
        rig.serve(LONG)
        settle(rig)
        frames = [bytes(frame) for frame in store.frames.values()]
        assert len(frames) == 4
        assert below(rig).used_bytes == sum(map(len, frames))
        if "zlib" in serdes:
            assert all(len(frame) < HEADER_BYTES + RAW_BYTES // 4 for frame in frames)
        flood(rig)
        assert rig.serve(LONG) == len(LONG) - 1
    with rig_with(store, *serdes) as rig:
        assert rig.serve(LONG) == len(LONG) - 1
        assert counters(rig)["damaged_frames"] == counters(rig)["foreign_frames"] == 0


def test_the_frame_says_how_it_was_encoded():
    """Decoded here by what is documented, without the engine's help."""
    frame = next(iter(kept(*BOTH).frames.values()))
    header = FrameHeader.parse(memoryview(frame))
    text = frame[168 + 4 + 1 :].split(b"\0")[0].decode()
    assert struct.unpack_from("<H", frame, 38)[0] == len(text)
    raw_check, zlib_part, signed_part = text.split(",")
    assert zlib_part == f"zlib:6:{RAW_BYTES}"
    stored = frame[HEADER_BYTES:]
    assert (header.raw_bytes, header.stored_bytes) == (RAW_BYTES, len(stored))
    assert signed_part == f"signed::{len(stored) - 32}"
    code = Signed()._code(header.key, stored[32:])
    assert stored[:32] == code
    assert f"{xxhash.xxh3_64_intdigest(zlib.decompress(stored[32:])):016x}" == raw_check


@pytest.mark.parametrize("when", [(), ("zlib",)])
def test_frames_from_before_a_serde_was_added_are_read(when):
    store = kept(*when)
    with rig_with(store, "zlib", "other", offers=(ZLIB, serde_spec("other", Zlib))) as rig:
        assert rig.serve(LONG) == len(LONG) - 1
        assert counters(rig)["foreign_frames"] == 0
    with rig_with(kept("signed"), *BOTH) as rig:
        assert rig.serve(LONG) == len(LONG) - 1, "what authenticates is there"


class Padding(Zlib):
    def encode(self, key, payload):
        return bytes(payload) + bytes(100)

    def decode(self, key, stored, payload):
        payload[:] = stored[:-100]


def test_frames_that_were_made_longer_are_read_without_their_serde():
    padding = serde_spec("padding", Padding)
    store = kept("padding", offers=(padding,))
    with rig_with(store, offers=(padding,)) as rig:
        assert rig.serve(LONG) == len(LONG) - 1
        settle(rig)
        assert counters(rig)["missing_frames"] == counters(rig)["damaged_frames"] == 0
        assert len(store.frames) == 4


@pytest.mark.parametrize("after", [(), ("other",)])
def test_frames_of_a_serde_that_is_installed_are_read_without_it(after):
    store = kept("zlib")
    old = dict(store.frames)
    with rig_with(store, *after, offers=(ZLIB, serde_spec("other", Zlib))) as rig:
        assert rig.serve(LONG) == len(LONG) - 1
        settle(rig)
        assert counters(rig)["foreign_frames"] == counters(rig)["damaged_frames"] == 0
    assert store.frames == old
    with rig_with(store, offers=()) as rig:
        assert rig.serve(LONG) == 0, "nobody has it"
        settle_reads(rig)
        assert counters(rig)["foreign_frames"] > 0


@pytest.mark.parametrize(
    ("before", "after"),
    [((), BOTH), (("zlib",), BOTH), (BOTH, ()), (BOTH, ("zlib",)), (("signed", "zlib"), BOTH)],
)
def test_frames_of_another_chain_are_misses_and_stored_anew(before, after):
    store = kept(*before)
    old = dict(store.frames)
    with rig_with(store, *after) as rig:
        assert rig.serve(LONG) == 0
        settle_reads(rig)
        settle(rig)
        assert counters(rig)["foreign_frames"] > 0
        assert counters(rig)["damaged_frames"] == 0
        flood(rig)
        settle(rig)
        assert rig.serve(LONG) >= CHUNK_TOKENS
        settle(rig)
        sizes = {key: len(frame) for key, frame in store.frames.items()}
        assert below(rig).used_bytes == sum(sizes.values())
    first = next(iter(old))
    assert store.frames[first] != old[first]


def test_in_a_shared_store_frames_of_others_are_left_alone_and_asked_for_once():
    store = kept(*BOTH)
    old = dict(store.frames)
    other = serde_spec("signed", lambda _config: Signed(secret=b"other"), authenticates=True)
    for serdes, offers in ((("zlib",), (ZLIB,)), ((), ()), (BOTH, (ZLIB, other))):
        with rig_with(store, *serdes, offers=offers, capabilities=SHARED) as rig:
            backend = rig.engine.tiers.storage[0]._calls._backend
            assert rig.serve(LONG) == 0
            settle(rig)
            assert (backend.gets, counters(rig)["foreign_frames"]) == (4, 4)
            for number in range(20):
                flood(rig, 1, base=50_000 + 100 * number)
                settle(rig)  # Or else what more than half of memory waits for is not written.
            assert rig.serve(LONG) == 0
            settle(rig)
            assert backend.gets == 4
            assert counters(rig)["damaged_frames"] == 0
            assert below(rig).entries == 20
            assert old.items() <= store.frames.items()
        store.frames = dict(old)


def test_what_nobody_here_can_decode_is_quarantined_in_a_store_of_our_own():
    store = kept("signed")
    other = serde_spec("signed", lambda _config: Signed(secret=b"other"), authenticates=True)
    with rig_with(store, "signed", offers=(other,)) as rig:
        assert rig.serve(LONG) == 0
        settle(rig)
        assert counters(rig)["damaged_frames"] == 4


@pytest.mark.parametrize(
    ("at", "sealed_again"),
    [
        *((at, False) for at in (0, 9, 40, 130, 155, 170, 180, 200, 4095, 4096, 4130, -1)),
        *((at, True) for at in (0, 9, 16, 24, 32, 40, 130, 168, 172, 173, 180, 4096, 4130, -1)),
    ],
)
def test_a_changed_byte_is_never_served(at, sealed_again):
    store = kept(*BOTH)
    key = next(iter(store.frames))
    frame = bytearray(store.frames[key])
    frame[at] ^= 1
    if sealed_again:
        reseal(frame)
    store.frames[key] = bytes(frame)
    with rig_with(store, *BOTH) as rig:
        assert rig.serve(LONG) == 0
        settle(rig)
        assert counters(rig)["damaged_frames"] + counters(rig)["foreign_frames"] == 1


def test_a_page_map_that_was_changed_does_not_decode():
    """Bytes that are all there, but said to be of other pages."""
    groups = windows((4, None), (4, 5), token_bytes=512)
    store = DictStore()
    fields = {"make": HybridRig, "groups": groups}
    with rig_with(store, "signed", **fields) as rig:
        rig.serve(LONG, local=len(LONG) - BLOCK_TOKENS)
        settle(rig)
    holes = 0
    for key, stored in store.frames.items():
        header = FrameHeader.parse(memoryview(stored))
        full, window = header.pages
        if window not in (0b1111, 0):
            holes += 1
            frame = bytearray(stored)
            frame[:HEADER_BYTES] = header._replace(pages=(full, ~window & 0b1111)).pack()
            store.frames[key] = bytes(frame)
    assert holes
    with rig_with(store, "signed", **fields) as rig:
        rig.serve(LONG)
        settle(rig)
        assert counters(rig)["damaged_frames"] == holes


class Lying(Zlib):
    """Gives back other bytes than it was given."""

    def decode(self, key, stored, payload):
        super().decode(key, stored, payload)
        payload[-1] ^= 1


class Lazy(Zlib):
    """Fills nothing."""

    def decode(self, key, stored, payload):
        return None


class Rude(Zlib):
    """Raises what it may not."""

    def decode(self, key, stored, payload):
        raise SystemExit(3)


@pytest.mark.parametrize("serde", [Lying, Lazy, Rude])
def test_a_serde_that_gives_back_other_bytes_serves_none(serde):
    with rig_with(DictStore(), "bad", offers=(serde_spec("bad", serde),)) as rig:
        rig.serve(LONG)
        settle(rig)
        flood(rig)
        settle(rig)
        assert rig.serve(LONG) == 0
        assert counters(rig)["damaged_frames"] == 4


class Refusing(Zlib):
    def encode(self, key, payload):
        raise ValueError("never of that length")


class Inflating(Zlib):
    def encode(self, key, payload):
        return bytes(len(payload) * 2 + (1 << 20))


class Nameless(Zlib):
    @property
    def label(self):
        return "a b"


class Empty(Zlib):
    def encode(self, key, payload):
        return None


@pytest.mark.parametrize("serde", [Refusing, Inflating, Nameless, Empty])
def test_what_cannot_be_encoded_is_not_stored_and_counted(serde):
    with rig_with(DictStore(), "bad", offers=(serde_spec("bad", serde),)) as rig:
        rig.serve(LONG)
        settle(rig)
        assert below(rig).entries == 0
        assert below(rig).healthy, "the store is not at fault"
        assert counters(rig)["encode_failures"] == 4
        assert counters(rig)["put_failures"] == 0
        assert rig.hit(LONG) == len(LONG)


def test_a_serde_may_return_any_bytes():
    class Views(Zlib):
        def encode(self, key, payload):
            return memoryview(super().encode(key, payload)).toreadonly()

    with rig_with(DictStore(), "views", offers=(serde_spec("views", Views),)) as rig:
        rig.serve(LONG)
        settle(rig)
        flood(rig)
        assert rig.serve(LONG) == len(LONG) - 1


def test_more_than_one_call_is_made_where_the_buffers_are_few(monkeypatch):
    monkeypatch.setattr(encoded_frames, "MAX_BATCH", 3)
    with rig_with(kept("zlib"), "zlib") as rig:
        assert rig.serve(LONG) == len(LONG) - 1


def test_a_frame_longer_than_any_buffer_is_taken_out_of_the_way():
    store = kept("zlib")
    key = next(iter(store.frames))
    store.frames[key] += bytes(1 << 20)
    with rig_with(store, "zlib") as rig:
        assert rig.serve(LONG) == 0
        settle(rig)
        assert counters(rig)["damaged_frames"] == 1
        assert counters(rig)["missing_frames"] == 0


def test_serdes_are_told_what_they_encode_and_closed_with_the_engine():
    made = []

    def make(_config):
        made.append(Zlib())
        return made[-1]

    with rig_with(DictStore(), "zlib", offers=(serde_spec("zlib", make),)) as rig:
        (serde,) = made
        assert serde.accepted == [KVSpec(dtype="", layout="", groups=tuple(rig.groups))]
        assert not serde.closed
    assert serde.closed


def test_a_start_that_fails_closes_what_it_has_made():
    made = []

    class Kind(Zlib):
        def __init__(self, _config):
            super().__init__()
            made.append(self)

    class Choosy(Kind):
        def accept(self, spec):
            raise ConfigError("only float8 is taken; leave this serde out")

    offers = (serde_spec("kind", Kind), serde_spec("choosy", Choosy))
    with pytest.raises(ConfigError, match="only float8"):
        rig_with(DictStore(), "kind", "choosy", offers=offers)
    assert [serde.closed for serde in made] == [1, 1]
    backend = Kept(DictStore())

    def fail():
        raise BackendError("no such folder")

    backend.open = fail
    spec = storage_spec("dict", lambda _config, _context: backend, KEPT)
    overrides = {"on_start_failure": "fail"}
    fields = {"offers": offers, "tier_fields": {"dict": chain("kind")}, "overrides": overrides}
    with pytest.raises(BackendError, match="no such folder"):
        Rig(storage=[spec], **fields)
    assert made[-1].closed


@pytest.mark.parametrize(
    ("serdes", "error", "words"),
    [
        (("zlip",), UnknownNameError, "Did you mean 'zlib'"),
        (("zlib", "zlib"), ConfigError, "'zlib' is in the chain twice"),
        (tuple("abcde"), ConfigError, "has 5 serdes, and the most are 4"),
        (("a:b",), ConfigError, "has a name that no frame's header can hold"),
    ],
)
def test_a_chain_that_cannot_be_is_a_sentence(serdes, error, words):
    offers = (ZLIB, *(serde_spec(name, Zlib) for name in ("a", "b", "c", "d", "e", "a:b")))
    with pytest.raises(error, match=words):
        rig_with(DictStore(), *serdes, offers=offers)


def test_tokens_of_kept_frames_are_told_once_somebody_has_named_them():
    tokens = LONG[: 2 * CHUNK_TOKENS + 2 * BLOCK_TOKENS]
    store = DictStore()
    with rig_with(store, "zlib") as rig:
        rig.serve(tokens)
        settle(rig)
    with rig_with(store, "zlib") as rig:
        tiers = rig.engine.tiers
        assert tiers.covered(ask(tokens).tokens, Scope())["dict"] == len(tokens)
        assert tiers.drop("dict", tiers.keys("dict"), force=False) == len(tokens)
