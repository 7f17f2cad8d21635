"""Bytes copied without the interpreter's lock arrive whole, and nowhere else."""

from __future__ import annotations

import pytest

from lmcache_core.memory.copying import copy_bytes

WORDS = b"some bytes to copy"


@pytest.mark.parametrize(
    "source",
    [WORDS, bytearray(WORDS), memoryview(bytearray(WORDS)), memoryview(WORDS), b""],
    ids=["bytes", "bytearray", "view", "view of bytes", "nothing"],
)
def test_bytes_of_any_kind_are_copied(source) -> None:
    room = bytearray(b"." * 40)
    copy_bytes(memoryview(room)[3:], source)
    assert room == b"..." + bytes(source) + b"." * (37 - len(source))


def test_a_part_of_a_buffer_is_copied_from_where_it_begins() -> None:
    room = bytearray(4)
    copy_bytes(memoryview(room), memoryview(bytearray(WORDS))[5:9])
    assert room == b"byte"


def test_what_does_not_fit_is_refused() -> None:
    room = bytearray(4)
    with pytest.raises(ValueError, match="18 bytes do not fit into 4"):
        copy_bytes(memoryview(room), WORDS)
    assert room == bytes(4)
