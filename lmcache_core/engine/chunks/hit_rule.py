"""Where a hit may end."""

from __future__ import annotations

from collections.abc import Sequence

from lmcache_core.api.connector import KVGroup
from lmcache_core.engine.chunks.pages import Pages


class HitRule:
    """A hit may end where every windowed group has all pages of its window.

    The next token attends, in a group of window W, to the last W - 1 tokens of
    the hit; the blocks that hold them are those the serving engine makes room
    for, and the only ones. Groups without a window have all pages of every
    chunk, so that a chain of chunks is all they need.

    Args:
        groups: The KV groups.
        chunk_tokens: Tokens in a whole chunk; a multiple of every block size.

    Attributes:
        no_pages: A chunk of which not one page is known to be there.
    """

    def __init__(self, groups: Sequence[KVGroup], chunk_tokens: int) -> None:
        self.no_pages: Pages = (0,) * len(groups)
        self._chunk_tokens = chunk_tokens
        self._windowed = [
            (number, group.block_tokens, group.window)
            for number, group in enumerate(groups)
            if group.window is not None
        ]

    def end(self, chunks: Sequence[Pages], tokens: int) -> int:
        """Where a hit ends that could at most have some tokens.

        Args:
            chunks: The pages of consecutive chunks from token 0 on; all but
                the last are whole.
            tokens: What the chunks hold, or fewer.

        Returns:
            The longest prefix that may be a hit, found from its end: chunks
            before the window are not looked at.
        """
        settled = 0
        while tokens and settled < len(self._windowed):
            for group in self._windowed:
                shorter = self._end_of(group, chunks, tokens)
                settled = settled + 1 if shorter == tokens else 0
                tokens = shorter
        return tokens

    def keeps(self, pages: Pages, other: Pages, tokens: int) -> bool:
        """Whether a chunk has all pages of another one, which has its first tokens.

        Args:
            pages: The pages of the one.
            other: The pages of the other.
            tokens: Tokens of the other.
        """
        if pages is None:
            return True
        return all(
            (other[number] if other else (1 << -(-tokens // block_tokens)) - 1) & ~pages[number]
            == 0
            for number, block_tokens, _ in self._windowed
        )

    def _end_of(self, group: tuple[int, int, int], chunks: Sequence[Pages], tokens: int) -> int:
        """The same for one group."""
        number, block_tokens, window = group
        per_chunk = self._chunk_tokens // block_tokens
        stop = -(-tokens // block_tokens)
        place = (stop - 1) // per_chunk
        while tokens:
            first = max(0, tokens - window + 1) // block_tokens
            if place < first // per_chunk:
                break
            pages = chunks[place]
            base = place * per_chunk
            if pages is not None:
                # The needed pages of this chunk that are not there.
                needed = (1 << min(per_chunk, stop - base)) - (1 << max(0, first - base))
                missing = needed & ~pages[number]
                if missing:
                    # No hit ends behind the last of them and in its reach, and
                    # none at those before it that are missing too.
                    there = pages[number] & ((1 << (missing.bit_length() - 1)) - 1)
                    stop = base + there.bit_length()
                    tokens = stop * block_tokens
                    place = (stop - 1) // per_chunk
                    continue
            place -= 1
        return tokens
