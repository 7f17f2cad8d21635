"""A block that a prompt does not fill: what is behind its last token leaves nobody's memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.vllm

Serve = Callable[..., Any]
Fresh = Callable[[int], list[int]]
BLOCK = 32


def tail_frame(serving: Any, ids: list[int]) -> bytes:
    """The payload of a prompt's last chunk, where it lies in host memory."""
    from lmcache_core.engine.chunks.geometry import HEADER_BYTES
    from lmcache_core.keys import EMPTY_SCOPE, tokens_to_bytes

    tiers = serving.engine.tiers
    chain = tiers.chain_of(tokens_to_bytes(ids), EMPTY_SCOPE)
    cover = tiers.memory.covers(chain)[-1]
    assert cover.tokens == len(ids) % chain.chunk_size
    return bytes(tiers.frame(tiers.memory.index[cover.key])[HEADER_BYTES:])


def soil(serving: Any, seed: int) -> None:
    """Leave other requests' bytes in every block of vLLM."""
    rng = random.Random(seed)
    for _ in range(3):
        prompts = [[rng.randrange(10, 700) for _ in range(500)] for _ in range(4)]
        serving.ask(prompts, 1, **{"lmcache.skip_save": True})


def clear(serving: Any) -> None:
    tiers = serving.engine.tiers
    tiers.drop(tiers.memory.name, tiers.keys(tiers.memory.name), force=True)


def frames_of_two_tenants(serving: Any, fresh: Fresh, length: int) -> Iterator[bytes]:
    """The tail of one prompt, computed in blocks that have held this and that."""
    ids = fresh(length)
    for tenant in range(2):
        soil(serving, tenant)
        serving.ask_one(ids, 1)
        yield tail_frame(serving, ids)
        clear(serving)


@pytest.mark.parametrize("length", [1, 12, 31, 64 + 33, 64 + 63])
def test_a_tail_has_the_same_bytes_whoever_had_its_block_before(
    serve: Serve, fresh: Fresh, length: int
) -> None:
    one, other = frames_of_two_tenants(serve(), fresh, length)
    assert one == other
    assert any(one)


def test_the_bytes_differ_where_tails_are_not_cleared(
    serve: Serve, fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = serve()
    monkeypatch.setattr(serving.worker._tails, "clear", lambda _copies: None)
    one, other = frames_of_two_tenants(serving, fresh, 12)
    assert one != other


@pytest.mark.parametrize("valid", [1, 12, 31])
def test_all_of_the_valid_tokens_is_kept(serve: Serve, fresh: Fresh, valid: int) -> None:
    """A longer prompt's page, cut to the tail's tokens, is the tail's page."""
    serving = serve()
    whole, cut = fresh(BLOCK), []
    serving.ask_one(whole, 1)
    page = tail_frame(serving, whole)
    clear(serving)
    serving.ask_one(whole[:valid], 1)
    tail = tail_frame(serving, whole[:valid])
    for parts in serving.worker._tails._groups:
        for page_bytes, owner in parts:
            start = len(cut)
            own = page[start : start + page_bytes]
            cut += [
                byte if token < valid else 0
                for byte, token in zip(own, owner.tolist(), strict=True)
            ]
    assert bytes(cut) == tail
