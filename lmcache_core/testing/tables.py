"""How large the largest table is that something keeps."""

from __future__ import annotations

import gc
import types
from array import array
from collections import deque

from lmcache_core.keys import KEY_BYTES

_NOT_KEPT = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.CodeType,
    types.FrameType,
)


def largest_table(root: object) -> int:
    """Elements of the largest container that can be reached from an object.

    A container is copied when it grows, and whoever needs what it is part of
    waits meanwhile. A bytearray counts as so many keys; a deque, which grows
    by blocks, not at all.
    """
    seen: set[int] = set()
    left: list[object] = [root]
    largest = 0
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, _NOT_KEPT):
            continue
        seen.add(id(one))
        if isinstance(one, dict | set | list | tuple | array):
            largest = max(largest, len(one))
        elif isinstance(one, bytearray):
            largest = max(largest, len(one) // KEY_BYTES)
        if not isinstance(one, deque):
            left += gc.get_referents(one)
    return largest
