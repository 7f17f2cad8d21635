"""The end of a sentence about an unknown key."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(key: str, known: Iterable[str]) -> str:
    """Suggest the known key that looks most like ``key``, or list what is known.

    Returns:
        The end of a sentence, beginning with a semicolon.
    """
    names = sorted(known)
    close = get_close_matches(key.lower(), names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; it knows {', '.join(names)}" if names else "; it has nothing to configure"
