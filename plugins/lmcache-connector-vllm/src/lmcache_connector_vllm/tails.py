"""Clearing what lies behind the last token of a tail."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lmcache_connector_vllm.token_bytes import PagePart
from lmcache_core.api.connector import SlotCopy
from lmcache_core.memory import HostRegion


class Tails:
    """Zeroes the bytes of tokens that are not valid, in slots that were just written.

    In vLLM's last block of a prompt, behind its tokens, lies what the block
    held before: another request's. It may not leave this memory, and a frame
    with it in would be another each time.

    Args:
        region: The shared region.
        before_bytes: Bytes of a block in the shards before this rank's, per KV group.
        groups: Where tokens lie in the pages of each group, or None.

    Attributes:
        clears: By KV group, whether its tails are cleared.
    """

    def __init__(
        self,
        region: HostRegion,
        before_bytes: Sequence[int],
        groups: Sequence[Sequence[PagePart] | None],
    ) -> None:
        self._region = region
        self._before_bytes = tuple(before_bytes)
        self._groups = tuple(groups)
        self.clears = tuple(parts is not None for parts in groups)

    def clear(self, copies: Sequence[SlotCopy]) -> None:
        """Clear the last page of every copy that ends with a tail's."""
        for copy in copies:
            parts = self._groups[copy.group]
            if not copy.tail_tokens or parts is None:
                continue
            last = copy.first_block + len(copy.block_ids) - 1
            start = copy.offset + copy.slot_blocks * self._before_bytes[copy.group]
            for page_bytes, owner in parts:
                page = self._region.view(start + last * page_bytes, page_bytes)
                stale = owner >= copy.tail_tokens
                torch.frombuffer(page, dtype=torch.uint8).masked_fill_(stale, 0)
                start += copy.slot_blocks * page_bytes
