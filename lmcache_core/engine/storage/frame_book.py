"""What is known of the frames of a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lmcache_core.engine.chunks.entry import Entry
from lmcache_core.engine.chunks.geometry import Geometry
from lmcache_core.engine.chunks.hit_rule import HitRule
from lmcache_core.engine.chunks.pages import Pages
from lmcache_core.engine.chunks.piece import Cover
from lmcache_core.engine.chunks.residents import Residents
from lmcache_core.keys import Key, Parts, make_parts


class Facts(NamedTuple):
    """What is known of one frame.

    Attributes:
        tokens: Tokens of its chunk; None where that is not known.
        pages: Which pages of it are there; None for all, as in an entry.
        guessed: Whether ``pages`` is not known.
    """

    tokens: int | None
    pages: Pages = None
    guessed: bool = False


class FrameBook:
    """Tokens and pages of frames, by key.

    A raw frame's length says how many blocks a complete chunk of it has, and
    where tails may leave host memory not how many tokens. An encoded one's
    says nothing, but that no more of it is there than if it were raw: of one
    that was there before us no page is certain, until somebody asks for its
    tokens or it is read. Until then it takes nothing here, whether there are
    a thousand of them or a million.

    Not thread-safe: the engine's lock is held around every call.

    Args:
        geometry: What pages a chunk has.
        chunk_tokens: Tokens in a whole chunk.
        rule: Where a hit may end; None where it may end anywhere.
        residents: The lengths of the frames.
        encoded: Whether the frames are.

    Attributes:
        rule: See above.
        found: What is known of a frame that was there before us, beside its length.
    """

    def __init__(
        self,
        geometry: Geometry,
        chunk_tokens: int,
        rule: HitRule | None,
        residents: Residents,
        *,
        encoded: bool = False,
    ) -> None:
        self.rule = rule
        self.found = Facts(None, guessed=rule is not None)
        self._geometry = geometry
        self._chunk_tokens = chunk_tokens
        self._residents = residents
        self._encoded = encoded
        self._facts: Parts[Key, Facts] = make_parts()
        # Nearly all frames share a few facts.
        self._common: dict[int | None, Facts] = {}

    def keep(self, key: Key, facts: Facts) -> None:
        """Keep what is known of a frame that is among the residents."""
        if facts == self.found:
            self._facts[key[0]].pop(key, None)
            return
        if facts.pages is None and not facts.guessed:
            facts = self._common.setdefault(facts.tokens, facts)
        self._facts[key[0]][key] = facts

    def forget(self, key: Key) -> None:
        """Forget a frame that is known."""
        self._facts[key[0]].pop(key, None)

    def facts(self, key: Key) -> Facts:
        """What is known of a frame that is there."""
        return self._facts[key[0]].get(key, self.found)

    @property
    def lengths_differ(self) -> bool:
        """Whether two whole frames of one chunk may have different lengths."""
        return self._encoded or self.rule is not None

    def present(self, entry: Entry, nbytes: int, ours: int) -> Facts:
        """What is known of a frame that somebody else has written meanwhile.

        Args:
            entry: The chunk.
            nbytes: Length of that frame.
            ours: Length that it would have had from us.
        """
        if self.rule is None or (nbytes == ours and not self._encoded):
            return Facts(entry.tokens, entry.pages)
        return self.found

    def tokens(self, key: Key) -> int:
        """Tokens of a frame that is there, as few as there can be where that is not known."""
        tokens = self.facts(key).tokens
        if tokens is not None:
            return tokens
        if self._encoded:
            return 1
        most = self._most_tokens(self._residents.size(key))
        return max(
            1, most - self._geometry.block_tokens + 1 if self._geometry.clears_tails else most
        )

    def raw_bytes(self, key: Key) -> int | None:
        """Length of a frame as it would lie in a slot; None where that is not known."""
        if key not in self._residents:
            return None
        facts = self.facts(key)
        if facts.tokens is not None and not facts.guessed:
            return self._geometry.frame_bytes(facts.tokens, facts.pages)
        if self._encoded or self.rule is None:
            return None
        nbytes = self._residents.size(key)
        return nbytes if self._geometry.may_be_raw(nbytes) else None

    def tells_raw(self, nbytes: int) -> bool:
        """Whether a frame of some length would be taken for a raw one once it is not known."""
        return not self._encoded and self.rule is not None and self._geometry.may_be_raw(nbytes)

    def learn(self, covers: Sequence[Cover]) -> None:
        """Somebody names the tokens of frames that are there."""
        for key, tokens in covers:
            facts = self.facts(key)
            if facts.tokens is None:
                self.keep(key, facts._replace(tokens=tokens))

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
        facts = self.facts(cover.key)
        # A raw frame that was there before us and is too short has not all.
        if facts.guessed and (
            self._encoded or self._most_tokens(self._residents.size(cover.key)) < cover.tokens
        ):
            return rule.no_pages
        return facts.pages

    def _most_tokens(self, nbytes: int) -> int:
        """Tokens of a complete raw frame of some length, where it fills its blocks."""
        return min(self._geometry.frame_tokens(nbytes), self._chunk_tokens)
