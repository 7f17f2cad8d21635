"""The part of each chunk that a rank holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from lmcache_connector_vllm.place import Place
from lmcache_connector_vllm.unserved import UnservedError
from lmcache_core.errors import LMCacheError


class RankFacts(msgspec.Struct, frozen=True, array_like=True):
    """What the other ranks have to know of one.

    Attributes:
        place: Where it runs.
        block_bytes: Bytes of a block over this rank's layers, per KV group.
        replicas: Consecutive ranks whose pages are equal; 1 for none.
        declined: Why it is to be served without a cache, or None.
    """

    place: Place
    block_bytes: tuple[int, ...]
    replicas: int
    declined: str | None


class Shard(NamedTuple):
    """Where a rank's pages lie in a slot.

    Attributes:
        before_bytes: Bytes of a block in the shards before it, per KV group.
        stores: Whether this rank writes the shard; of ranks with equal pages
            the first does, and all read it.
    """

    before_bytes: tuple[int, ...]
    stores: bool


def shard_of(ranks: Sequence[RankFacts], index: int) -> Shard:
    """The shard of one rank; every rank comes to the same arrangement.

    Args:
        ranks: All ranks, stage by stage, tensor rank by tensor rank.
        index: Which of them.

    Raises:
        UnservedError: The instance is to be served without a cache.
        LMCacheError: Ranks that are said to be equal are not.
    """
    for number, rank in enumerate(ranks):
        if rank.declined is not None:
            raise UnservedError(rank.declined)
        apart = rank.place.apart_from(ranks[0].place)
        if apart is not None:
            message = f"rank {number} of {len(ranks)} is {apart}; one instance is one memory"
            raise UnservedError(message)
    before_bytes = [0] * len(ranks[0].block_bytes)
    shards: list[Shard] = []
    for number, rank in enumerate(ranks):
        # A stage has whole sets of replicas, so sets begin at multiples.
        first = number - number % rank.replicas
        if first == number:
            shards.append(Shard(tuple(before_bytes), stores=True))
            before_bytes = [
                before + own for before, own in zip(before_bytes, rank.block_bytes, strict=True)
            ]
            continue
        if rank.block_bytes != ranks[first].block_bytes:
            message = (
                f"vLLM says that ranks {first} and {number} hold equal pages, and their blocks "
                f"have {ranks[first].block_bytes} and {rank.block_bytes} bytes"
            )
            raise LMCacheError(message)
        shards.append(Shard(shards[first].before_bytes, stores=False))
    return shards[index]
