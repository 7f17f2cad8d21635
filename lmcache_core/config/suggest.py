"""The end of a sentence about an unknown key."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def closest(key: str, known: Iterable[str]) -> str | None:
    """The known key that looks most like ``key``, or None if none does."""
    close = get_close_matches(key.lower(), sorted(known), n=1)
    return close[0] if close else None


def nearest(key: str, known: Iterable[str]) -> str:
    """Suggest the closest known key, or list what is known.

    Returns:
        The end of a sentence, beginning with a semicolon.
    """
    names = sorted(known)
    close = closest(key, names)
    if close:
        return f"; did you mean {close!r}?"
    return f"; known are {', '.join(names)}" if names else "; it has nothing to configure"
