"""Where a hit may end, against a rule spelt out token by token."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lmcache_core.api.connector import KVGroup
from lmcache_core.engine.chunks.hit_rule import HitRule
from lmcache_core.engine.chunks.pages import fuller

CHUNK = 12


@st.composite
def chains(draw):
    """Groups of unlike blocks and windows, and the pages of a few chunks."""
    sizes = st.sampled_from([1, 2, 3, 4, 6, 12])
    windows = st.one_of(st.none(), st.integers(2, 40))
    groups = [KVGroup(draw(sizes), 1, draw(windows)) for _ in range(draw(st.integers(1, 4)))]
    whole = draw(st.integers(0, 5))
    tail = draw(st.integers(0, CHUNK - 1))
    chunks = []
    for length in [CHUNK] * whole + [tail] * bool(tail):
        pages = []
        for group in groups:
            count = -(-length // group.block_tokens)
            everything = (1 << count) - 1
            kind = draw(st.sampled_from(["all", "suffix", "any", "none"]))
            bits = {
                "all": everything,
                "suffix": everything & ~((1 << draw(st.integers(0, count))) - 1),
                "any": draw(st.integers(0, everything)),
                "none": 0,
            }[kind if group.window is not None else "all"]
            pages.append(bits)
        complete = all(
            bits == (1 << -(-length // group.block_tokens)) - 1
            for bits, group in zip(pages, groups, strict=True)
        )
        chunks.append(None if complete else tuple(pages))
    tokens = draw(st.integers(0, whole * CHUNK + tail))
    return groups, chunks, tokens


def there(groups, chunks, number, token):
    """Whether a group has the page of a token."""
    pages = chunks[token // CHUNK]
    return pages is None or pages[number] >> (token % CHUNK // groups[number].block_tokens) & 1


def may_end(groups, chunks, end):
    """Whether all is there that the token at ``end`` attends to."""
    return all(
        there(groups, chunks, number, token)
        for number, group in enumerate(groups)
        for token in range(0 if group.window is None else max(0, end - group.window + 1), end)
    )


@given(chain=chains())
@settings(max_examples=1000, deadline=None)
def test_the_longest_hit_is_found(chain):
    groups, chunks, tokens = chain
    expected = max(end for end in range(tokens + 1) if may_end(groups, chunks, end))
    assert HitRule(groups, CHUNK).end(chunks, tokens) == expected


def test_a_long_chain_without_windows_is_left_at_once():
    groups = [KVGroup(1, 1, window=4)]
    chunks = [(0,)] * 5000 + [((1 << CHUNK) - 1,)]
    assert HitRule(groups, CHUNK).end(chunks, 5001 * CHUNK) == 5001 * CHUNK
    assert HitRule(groups, CHUNK).end(chunks, 5000 * CHUNK + 2) == 0


def test_fuller_means_the_same_and_more():
    assert fuller(None, (1, 3))
    assert fuller((3, 3), (1, 3))
    assert not fuller((1, 3), (1, 3))
    assert not fuller((1, 3), (2, 3))
    assert not fuller((1, 3), None)
    assert not fuller(None, None)
