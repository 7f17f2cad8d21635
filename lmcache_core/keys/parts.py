"""Dictionaries that grow a part at a time.

A dictionary that is full is copied whole, and so is one of steady length that
keys come to and go from. With a million keys that takes 80 ms, which a serving
step would have to wait for. A part of such a table takes a fraction of one.
"""

from __future__ import annotations

from typing import Any, TypeAlias, TypeVar

K = TypeVar("K")
V = TypeVar("V")

Parts: TypeAlias = tuple[dict[K, V], ...]
"""A table as 256 dictionaries: ``parts[key[0]][key]``, since keys are digests.

Numbers are in ``parts[SPREAD[number % PRIME]][number]``.
"""

PARTS = 256

PRIME = 65521
"""So that numbers at any usual distance from one another have all remainders."""

_STEP = 31
"""So that a few thousand numbers in order come to all parts."""

_EDGES = [round(PRIME * (2 ** (part / PARTS) - 1)) for part in range(PARTS + 1)]
_IN_ORDER = b"".join(bytes([part]) * (_EDGES[part + 1] - _EDGES[part]) for part in range(PARTS))

SPREAD = (_IN_ORDER * _STEP)[::_STEP]
"""The part of a number by its remainder. The last part has twice the numbers of the
first one: of numbers that come in order, parts of one size would all grow at once."""


def make_parts() -> Parts[Any, Any]:
    """A table of no keys."""
    return tuple({} for _ in range(PARTS))
