"""A frame proves which chunk it is, of which namespace, and that it is whole."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import pytest
import xxhash

from lmcache_core.api.connector import KVGroup
from lmcache_core.api.frames import HEADER_BYTES
from lmcache_core.engine.chunks.entry import Entry
from lmcache_core.engine.chunks.geometry import Geometry
from lmcache_core.engine.chunks.piece import Piece
from lmcache_core.engine.frames.encoding import Encoding, Stage
from lmcache_core.engine.frames.frame import FrameSeal
from lmcache_core.engine.frames.header import FrameHeader
from lmcache_core.errors import FrameError
from lmcache_core.memory import Slot

MINE, OTHERS = bytes(32), b"\1" * 32
GEOMETRY = Geometry([KVGroup(4, 32)])
HYBRID = Geometry([KVGroup(4, 8), KVGroup(2, 8, window=3)])
HOLES = (0b11, 0b1100)


def entry(name="chunk", parent="root", tokens=8, pages=None):
    key, parent = (hashlib.sha256(text.encode()).digest() for text in (name, parent))
    return Entry(Piece(key, parent, bytes(4 * tokens), 0), Slot(0, 8192), "t", pages)


def sealed(geometry, entry):
    payload = geometry.payload_bytes(entry.tokens, entry.pages)
    frame = memoryview(bytearray(HEADER_BYTES + payload))
    frame[HEADER_BYTES:] = bytes(range(payload))
    FrameSeal(MINE, geometry).ensure(entry, frame, MINE)
    return frame


@pytest.fixture
def frame():
    return sealed(GEOMETRY, entry())


def reseal(frame, at, value):
    """Change bytes of a header and make its checksum right again."""
    frame[at : at + len(value)] = value
    check = xxhash.xxh3_64(frame[:160])
    check.update(frame[168:HEADER_BYTES])
    frame[160:168] = struct.pack("<Q", check.intdigest())


def test_a_whole_frame_is_taken(frame):
    taken = entry()
    FrameSeal(MINE, GEOMETRY).verify(taken, frame, MINE)
    assert taken.sealed
    assert taken.pages is None


def test_which_pages_are_there_is_learnt_from_the_frame():
    frame = sealed(HYBRID, entry(pages=HOLES))
    assert len(frame) == HEADER_BYTES + 32, "pages that are not there take no room"
    taken = entry()
    FrameSeal(MINE, HYBRID).verify(taken, frame, MINE)
    assert taken.pages == HOLES


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (entry(name="another"), "key"),
        (entry(parent="another"), "parent"),
        (entry(tokens=7), "tokens"),
    ],
)
def test_another_chunks_frame_is_not(frame, other, what):
    with pytest.raises(FrameError, match=f"frame's {what} is"):
        FrameSeal(MINE, GEOMETRY).verify(other, frame, MINE)
    assert not other.sealed


def test_nor_is_one_of_another_namespace(frame):
    with pytest.raises(FrameError, match="namespace"):
        FrameSeal(OTHERS, GEOMETRY).verify(entry(), frame, OTHERS)


def test_nor_one_of_other_blocks(frame):
    with pytest.raises(FrameError, match="pages"):
        FrameSeal(MINE, Geometry([KVGroup(2, 16)])).verify(entry(), frame, MINE)


def test_nor_one_that_is_cut_short_or_sealed_over_other_bytes(frame):
    with pytest.raises(FrameError, match="payload bytes"):
        FrameSeal(MINE, GEOMETRY).verify(entry(), frame[:-32], MINE)
    with pytest.raises(FrameError, match="header has"):
        FrameSeal(MINE, GEOMETRY).verify(entry(), frame[:100], MINE)
    frame[-1] ^= 1
    with pytest.raises(FrameError, match="payload"):
        FrameSeal(MINE, GEOMETRY).verify(entry(), frame, MINE)


@pytest.mark.parametrize(
    ("at", "value", "what"),
    [
        (8, struct.pack("<I", 1), "version 1"),
        (8, struct.pack("<I", 3), "version 3"),
        (0, b"LMCFRAM2", "LMCFRAM2"),
        (16, struct.pack("<Q", 63), "raw bytes"),
        (24, struct.pack("<Q", 63), "payload bytes"),
        (36, struct.pack("<H", 2), "pages"),
        (38, struct.pack("<H", 4), "serde chain"),
        (36, struct.pack("<H", 2000), "page map is longer"),
        (38, struct.pack("<H", 4000), "serde chain is longer"),
        (168, struct.pack("<I", 1), "pages"),
        (172, b"\1", "raw bytes"),
        (172, b"\7", "page map"),
    ],
)
def test_nor_one_whose_header_says_anything_else(frame, at, value, what):
    reseal(frame, at, value)
    with pytest.raises(FrameError, match=what):
        FrameSeal(MINE, GEOMETRY).verify(entry(), frame, MINE)


def test_every_bit_of_the_header_is_checked(frame):
    for at in range(HEADER_BYTES):
        frame[at] ^= 0x10
        with pytest.raises(FrameError):
            FrameSeal(MINE, GEOMETRY).verify(entry(), frame, MINE)
        frame[at] ^= 0x10


def test_a_frame_is_sealed_once():
    once = entry()
    frame = sealed(GEOMETRY, once)
    before = bytes(frame)
    FrameSeal(MINE, GEOMETRY).ensure(once, frame, MINE)
    assert bytes(frame) == before, "its random id would differ"


def test_the_layout_is_the_documented_one():
    """Spelt out here a second time, so that it cannot change unnoticed."""
    header = FrameHeader(
        raw_bytes=32,
        stored_bytes=32,
        tokens=8,
        key=b"k" * 32,
        parent=b"p" * 32,
        namespace=b"n" * 32,
        frame_id=b"i" * 16,
        payload_check=0x0102030405060708,
        counts=(2, 12),
        pages=(0b11, 0b1000_0000_0001),
        encoding=Encoding(0xFEDCBA9876543210, (Stage("zstd", "3", 32),)),
    )
    fields = b"LMCFRAM1" + bytes.fromhex("02000000 00100000")
    fields += bytes.fromhex("2000000000000000 2000000000000000 08000000 0200 1a00")
    fields += b"k" * 32 + b"p" * 32 + b"n" * 32 + b"i" * 16 + bytes.fromhex("0807060504030201")
    rest = bytes.fromhex("02000000 03 0c000000 0108") + b"fedcba9876543210,zstd:3:32"
    rest += bytes(HEADER_BYTES - 168 - len(rest))
    check = xxhash.xxh3_64_intdigest(fields + rest)
    page = header.pack()
    assert page == fields + struct.pack("<Q", check) + rest
    vector = "c1335a4a26decb8c19092234d94f47f72102e8a768e0b53f9447fd4fd8ed6578"
    assert hashlib.sha256(page).hexdigest() == vector
    documented = Path(__file__).parents[2] / "docs" / "reference" / "frames.md"
    assert vector in documented.read_text()
    assert header.binding == hashlib.sha256(header.key + rest[:11]).digest()
    assert header.binding.hex() in documented.read_text()
    assert header._replace(pages=(0b11, 0b1111_1111_1111)).binding == header.key
    assert FrameHeader.parse(memoryview(page)) == header


def test_a_page_map_that_does_not_fit_is_refused():
    bits = (1 << 40_000) - 1
    header = FrameHeader(0, 0, 0, b"", b"", b"", b"", 0, (40_000,), (bits,))
    with pytest.raises(FrameError, match="page map takes 5004 bytes"):
        header.pack()


@pytest.mark.parametrize(
    "text",
    [
        b"zstd",
        b"fedcba9876543210",
        b"FEDCBA9876543210,zstd:3:32",
        b"fedcba9876543210,zstd:3",
        b"fedcba9876543210,zstd:3:-32",
        b"fedcba9876543210,zstd:3:32,",
        b"fedcba9876543210,zs td:3:32",
        b"fedcba9876543210,zst\xe9:3:32",
        b"fedcba9876543210,:3:32",
        b"fedcba9876543210,zstd:3:" + b"9" * 16,
        b"fedcba9876543210,zstd:3:32\n",
    ],
)
def test_a_serde_chain_is_read_strictly(text):
    with pytest.raises(FrameError, match="serde chain cannot be read"):
        Encoding.parse(text)


def test_a_serde_chain_is_read_as_it_was_written():
    encoding = Encoding(7, (Stage("zstd", "", 4096), Stage("aesgcm", "key-1", 0)))
    assert encoding.pack() == b"0000000000000007,zstd::4096,aesgcm:key-1:0"
    assert Encoding.parse(encoding.pack()) == encoding
