"""What is known of an object that is there."""

from __future__ import annotations

from typing import NamedTuple


class Version(NamedTuple):
    """What one writing of an object is told by.

    Attributes:
        e_tag: The entity tag, None where the store has none.
        version: The store's own number of it, None where it has none.
    """

    e_tag: str | None
    version: str | None


class Found(NamedTuple):
    """An object that is there.

    Attributes:
        nbytes: Its whole length.
        version: Which writing of it this is.
    """

    nbytes: int
    version: Version
