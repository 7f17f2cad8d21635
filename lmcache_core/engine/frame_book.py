"""What is known of the frames of a store."""

from __future__ import annotations

from collections.abc import Sequence

from lmcache_core.engine.geometry import Geometry
from lmcache_core.engine.hit_rule import HitRule
from lmcache_core.engine.pages import Pages
from lmcache_core.engine.piece import Cover
from lmcache_core.engine.residents import Residents
from lmcache_core.keys import Key


class FrameBook:
    """Tokens and pages of frames, by key.

    Not thread-safe: the engine's lock is held around every call.

    Args:
        geometry: What pages a chunk has.
        chunk_tokens: Tokens in a whole chunk.
        rule: Where a hit may end; None where it may end anywhere.
        residents: The lengths of the frames.
    """

    def __init__(
        self, geometry: Geometry, chunk_tokens: int, rule: HitRule | None, residents: Residents
    ) -> None:
        self.rule = rule
        self._geometry = geometry
        self._chunk_tokens = chunk_tokens
        self._residents = residents
        self._tokens: dict[Key, int] = {}
        # Of the few frames that have not all their pages.
        self._pages: dict[Key, Pages] = {}

    def keep(self, key: Key, tokens: int, pages: Pages = None) -> None:
        """Keep what is known of a frame."""
        self._tokens[key] = tokens
        if pages is not None:
            self._pages[key] = pages

    def tokens_in(self, nbytes: int) -> int:
        """The tokens of a frame of which only the length is known."""
        return min(self._geometry.frame_tokens(nbytes), self._chunk_tokens)

    def forget(self, key: Key) -> None:
        """Forget a frame that is known."""
        del self._tokens[key]
        self._pages.pop(key, None)

    def tokens(self, key: Key) -> int:
        """Tokens of a frame that is known."""
        return self._tokens[key]

    def pages(self, key: Key) -> Pages:
        """Pages that a frame is known to have; None also where that is not known."""
        return self._pages.get(key)

    def usable(self, covers: Sequence[Cover]) -> int:
        """Tokens of a prefix that may be a hit.

        Args:
            covers: What covers it, piece by piece.
        """
        tokens = sum(cover.tokens for cover in covers)
        rule = self.rule
        if rule is None:
            return tokens
        return rule.end([self._pages_of(cover, rule) for cover in covers], tokens)

    def _pages_of(self, cover: Cover, rule: HitRule) -> Pages:
        pages = self._pages.get(cover.key)
        if pages is None:
            nbytes = self._residents.size(cover.key)
            if self.tokens_in(nbytes) < cover.tokens:
                # It was there before us and is too short to have them all.
                return rule.no_pages
        return pages
