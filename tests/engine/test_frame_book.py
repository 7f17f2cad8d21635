"""What is known of frames: by their lengths, by who wrote them, by who asked."""

from __future__ import annotations

import pytest

from lmcache_core.api.connector import KVGroup
from lmcache_core.api.frames import HEADER_BYTES
from lmcache_core.engine.chunks.geometry import Geometry
from lmcache_core.engine.chunks.piece import Cover
from lmcache_core.engine.chunks.residents import Residents
from lmcache_core.engine.storage.frame_book import Facts, FrameBook
from tests.engine.test_residents import KEY, OTHER, Strict

BLOCK_TOKENS, BLOCK_BYTES, CHUNK_TOKENS = 4, 64, 16
WHOLE = HEADER_BYTES + CHUNK_TOKENS // BLOCK_TOKENS * BLOCK_BYTES
SHORT = HEADER_BYTES + 2 * BLOCK_BYTES


def make_book(*, clears_tails=False, encoded=False):
    residents = Residents(0, Strict())
    geometry = Geometry([KVGroup(BLOCK_TOKENS, BLOCK_BYTES, clears_tails=clears_tails)])
    return FrameBook(geometry, CHUNK_TOKENS, None, residents, encoded=encoded), residents


def test_the_length_of_a_frame_of_whole_blocks_tells_its_tokens_and_not_whether_it_is_raw():
    book, residents = make_book()
    residents.add(KEY, WHOLE)
    residents.add(OTHER, SHORT)
    assert (book.facts(KEY), book.facts(OTHER)) == (Facts(None), Facts(None))
    assert (book.tokens(KEY), book.tokens(OTHER)) == (16, 8)
    assert book.raw_bytes(OTHER) is None
    book.learn([Cover(OTHER, 8)])
    assert book.raw_bytes(OTHER) == SHORT


@pytest.mark.parametrize(("encoded", "least"), [(False, 5), (True, 1)])
def test_tokens_that_a_length_does_not_tell_are_learnt_from_who_asks(encoded, least):
    book, residents = make_book(clears_tails=True, encoded=encoded)
    residents.add(KEY, SHORT)
    assert (book.facts(KEY).tokens, book.tokens(KEY)) == (None, least)
    book.learn([Cover(KEY, 7)])
    assert (book.facts(KEY).tokens, book.tokens(KEY)) == (7, 7)


def test_what_a_length_does_not_tell_is_kept_until_something_else_is_known():
    book, residents = make_book()
    residents.add(KEY, WHOLE)
    book.keep(KEY, Facts(16, (0b0011,)))
    assert book.facts(KEY).pages == (0b0011,)
    book.keep(KEY, Facts(16))
    assert book.facts(KEY) == Facts(16)


def test_a_frame_that_was_forgotten_leaves_nothing_to_the_next_of_its_key():
    book, residents = make_book(clears_tails=True)
    for _ in range(2):
        residents.add(KEY, SHORT)
        assert book.facts(KEY).tokens is None
        book.keep(KEY, Facts(6))
        assert book.facts(KEY).tokens == 6
        book.forget(KEY)
        residents.discard(KEY)
        assert book.raw_bytes(KEY) is None
