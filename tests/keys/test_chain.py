"""A chain grows with its tokens, knows tails from chunks and refuses what is no token."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcache_core.errors import LMCacheError
from lmcache_core.keys import (
    KEY_BYTES,
    KeyChain,
    TokenRangeError,
    chunk_key,
    tokens_to_bytes,
)

ROOT = KeyChain.seed(bytes(32), bytes(32))

TOKENS = st.lists(st.integers(0, 2**32 - 1), max_size=40)


def chain(tokens: list[int], chunk_size: int = 4) -> KeyChain:
    made = KeyChain(ROOT, chunk_size)
    made.extend(tokens)
    return made


@pytest.mark.parametrize("bad", [-1, 2**32, 2**64, 1.5, "7", None, b"1", [1]])
def test_what_is_no_token_is_named(bad: Any) -> None:
    with pytest.raises(TokenRangeError, match="is not an integer from 0 to 4294967295") as failure:
        tokens_to_bytes([1, bad, 2])
    assert repr(bad) in str(failure.value)
    assert isinstance(failure.value, LMCacheError)


def test_a_bad_token_leaves_the_chain_as_it_was() -> None:
    grown = chain([1, 2, 3, 4, 5])
    with pytest.raises(TokenRangeError):
        grown.extend([6, -1])
    assert len(grown) == 5
    grown.extend([6, 7, 8])
    assert grown.keys == chain([1, 2, 3, 4, 5, 6, 7, 8]).keys


def test_tokens_are_little_endian() -> None:
    assert tokens_to_bytes([1, 2**32 - 1, 0x01020304]) == bytes.fromhex("01000000ffffffff04030201")


def test_a_tail_is_no_chunk() -> None:
    """The tail of twelve tokens and a chunk that begins with them have nothing in common."""
    tokens = list(range(16))
    whole = chain(tokens, 16)
    names = {whole.key(0, length) for length in range(1, 17)}
    assert len(names) == 16
    assert whole.keys == [whole.key(0, 16)]
    assert chain(tokens[:12], 16).keys == []
    assert chain(tokens[:12], 16).key(0, 12) == whole.key(0, 12)


def test_padding_a_tail_gives_another_key() -> None:
    assert chain([1, 2, 3]).key(0, 3) != chain([1, 2, 3, 0]).key(0, 4)


def test_the_chunk_size_is_not_in_the_key_but_where_it_cuts_is() -> None:
    tokens = list(range(8))
    assert chain(tokens, 8).keys[-1] != chain(tokens, 4).keys[-1]
    assert chain(tokens, 8).key(0, 4) == chain(tokens, 4).keys[0]


@given(tokens=TOKENS, cuts=st.lists(st.integers(0, 40), max_size=5), size=st.integers(1, 9))
def test_growing_by_steps_changes_no_key(tokens: list[int], cuts: list[int], size: int) -> None:
    grown = KeyChain(ROOT, size)
    last = 0
    for cut in [*sorted(cuts), len(tokens)]:
        grown.extend(tokens[last:cut])
        last = max(last, min(cut, len(tokens)))
    assert grown.keys == chain(tokens, size).keys
    assert len(grown) == len(tokens)
    assert all(len(key) == KEY_BYTES for key in grown.keys)


@given(tokens=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=24), data=st.data())
def test_a_key_depends_on_every_token_up_to_its_end_and_on_no_other(
    tokens: list[int], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(tokens) - 1))
    changed = list(tokens)
    changed[index] ^= 1
    one, other = chain(tokens), chain(changed)
    for number, (key, key_other) in enumerate(zip(one.keys, other.keys, strict=True)):
        assert (key == key_other) is (index >= (number + 1) * 4)


def test_parent_and_bytes_make_the_key() -> None:
    grown = chain(list(range(10)))
    assert grown.parent(0) == ROOT
    assert grown.parent(1) == grown.keys[0]
    assert chunk_key(grown.parent(1), grown.token_bytes(1)) == grown.keys[1]
    assert grown.token_bytes(2) == tokens_to_bytes([8, 9])
    assert grown.token_bytes(1, 2) == tokens_to_bytes([4, 5])
