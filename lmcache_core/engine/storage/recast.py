"""How frames are to be encoded from now on, and what became of each."""

from __future__ import annotations

import enum
from typing import NamedTuple

from lmcache_core.engine.frames.serde_chain import SerdeChain
from lmcache_core.keys import Key


class Outcome(enum.Enum):
    """What has become of one frame."""

    RECODED = "recoded"
    UNCHANGED = "unchanged"
    """It is in that form already, or not in the one that was to be undone."""
    NOT_SHORTER = "not_shorter"
    REFUSED = "refused"
    """A serde cannot encode it, or does not give it back as it was."""
    FULL = "full"
    """There is no room for the longer frame, or pins may not take it."""
    FOREIGN = "foreign"
    """It is another namespace's, or in a form that cannot be read here."""
    MISSING = "missing"
    FAILED = "failed"
    """It is damaged, or the store did not do as it was asked."""


class Recoded(NamedTuple):
    """One frame of those that were asked for.

    Attributes:
        key: Its chunk's key.
        outcome: What has become of it.
        tokens: Tokens of it that were encoded anew.
        saved_bytes: By how much it is shorter; less than 0 where it is longer.
    """

    key: Key
    outcome: Outcome
    tokens: int = 0
    saved_bytes: int = 0


class Recast(NamedTuple):
    """How frames are to be encoded from now on.

    Attributes:
        chain: The serdes; none for raw frames.
        only: The serdes of the frames that are meant; None for all frames.
        shorter: Whether a frame that would not be shorter stays as it is.
    """

    chain: SerdeChain
    only: tuple[str, ...] | None
    shorter: bool
