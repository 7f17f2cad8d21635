"""Cutting a frame into parts that are moved side by side."""

from __future__ import annotations

_PAGE = 4096


def cut(nbytes: int, part_bytes: int) -> list[tuple[int, int]]:
    """Cut a length into parts that are as equal as whole pages let them be.

    None is shorter than it has to be, but the last by some pages: a frame is
    its header page longer than its chunk, and must not leave that page over as
    a part of its own.

    Args:
        nbytes: The whole.
        part_bytes: The least that is worth a request of its own.

    Returns:
        Start and stop of each.
    """
    if not nbytes:
        return []
    count = max(1, nbytes // part_bytes)
    step = -(-nbytes // count // _PAGE) * _PAGE
    return [(start, min(start + step, nbytes)) for start in range(0, nbytes, step)]
