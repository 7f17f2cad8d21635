"""The cache's chunks as block events of vLLM, for routers that follow them."""

from __future__ import annotations

from collections.abc import Iterable

from vllm.distributed.kv_events import (
    MEDIUM_CPU,
    MEDIUM_STORAGE,
    BlockRemoved,
    BlockStored,
    KVCacheEvent,
)

from lmcache_core.api.connector import ChunkChange
from lmcache_core.keys import TOKEN_BYTES


def block_events(changes: Iterable[ChunkChange], memory: str) -> list[KVCacheEvent]:
    """Turn changes into events.

    A chunk is a block of its own length under its own key. Without an
    adapter, a salt, a tag or a picture the first one has no parent, so that a
    consumer that knows tokens only takes no other chunk for its own.

    Args:
        changes: What has come and gone.
        memory: Name of the tier in host memory.
    """
    return [
        _stored(change, _medium(change, memory))
        if change.stored
        else BlockRemoved(
            block_hashes=[change.key],
            medium=_medium(change, memory),
            ownership=change.location,
        )
        for change in changes
    ]


def _stored(change: ChunkChange, medium: str) -> BlockStored:
    tokens = memoryview(change.token_bytes).cast("I").tolist()
    return BlockStored(
        block_hashes=[change.key],
        parent_block_hash=change.parent,
        token_ids=tokens,
        block_size=len(change.token_bytes) // TOKEN_BYTES,
        lora_id=None,
        medium=medium,
        lora_name=None,
        ownership=change.location,
    )


def _medium(change: ChunkChange, memory: str) -> str:
    return str(MEDIUM_CPU if change.location == memory else MEDIUM_STORAGE)
