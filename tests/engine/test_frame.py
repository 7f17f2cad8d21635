"""A frame proves which chunk it is, of which namespace, and that it is whole."""

from __future__ import annotations

import hashlib

import pytest

from lmcache_core.engine.entry import Entry
from lmcache_core.engine.frame import HEADER_BYTES, FrameSeal
from lmcache_core.engine.piece import Piece
from lmcache_core.errors import FrameError
from lmcache_core.memory import Slot

MINE, OTHERS = bytes(32), b"\1" * 32


def entry(name="chunk", parent="root", tokens=8, blocks=2):
    key, parent = (hashlib.sha256(text.encode()).digest() for text in (name, parent))
    return Entry(Piece(key, parent, bytes(4 * tokens), 0), Slot(0, 8192), blocks, "t")


@pytest.fixture
def frame():
    frame = memoryview(bytearray(HEADER_BYTES + 64))
    frame[HEADER_BYTES:] = bytes(range(64))
    FrameSeal(MINE).ensure(entry(), frame, MINE)
    return frame


def test_a_whole_frame_is_taken(frame):
    taken = entry()
    FrameSeal(MINE).verify(taken, frame, MINE)
    assert taken.sealed


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (entry(name="another"), "key"),
        (entry(parent="another"), "parent"),
        (entry(tokens=7), "tokens"),
        (entry(blocks=1), "blocks"),
    ],
)
def test_another_chunks_frame_is_not(frame, other, what):
    with pytest.raises(FrameError, match=f"frame's {what} is"):
        FrameSeal(MINE).verify(other, frame, MINE)
    assert not other.sealed


def test_nor_is_one_of_another_namespace(frame):
    with pytest.raises(FrameError, match="namespace"):
        FrameSeal(OTHERS).verify(entry(), frame, OTHERS)


def test_nor_one_that_is_cut_short_or_sealed_over_other_bytes(frame):
    with pytest.raises(FrameError, match="payload bytes"):
        FrameSeal(MINE).verify(entry(), frame[:-32], MINE)
    frame[-1] ^= 1
    with pytest.raises(FrameError, match="payload"):
        FrameSeal(MINE).verify(entry(), frame, MINE)


def test_a_frame_is_sealed_once():
    sealed, frame = entry(), memoryview(bytearray(HEADER_BYTES + 64))
    seal = FrameSeal(MINE)
    seal.ensure(sealed, frame, MINE)
    before = bytes(frame)
    seal.ensure(sealed, frame, MINE)
    assert bytes(frame) == before, "its random id would differ"
