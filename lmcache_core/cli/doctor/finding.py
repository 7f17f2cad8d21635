"""What ``lmcache doctor`` found out about one thing."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        what: What it is.
        state: ``wrong`` is a fault, a ``note`` is none.
        text: What was found, and what to do about it.
    """

    what: str
    state: Literal["ok", "note", "wrong"]
    text: str
