"""Which pages of a chunk are there."""

from __future__ import annotations

from typing import TypeAlias

Pages: TypeAlias = "tuple[int, ...] | None"
"""For each KV group a bit per page, the first page lowest; None for all of them.

Nearly every chunk has all its pages, and those that have not are all that pays
for saying which.
"""


def fuller(pages: Pages, other: Pages) -> bool:
    """Whether ``pages`` has all pages of ``other``, a chunk of equal length, and more."""
    if other is None or pages == other:
        return False
    return pages is None or all(
        theirs & ~ours == 0 for ours, theirs in zip(pages, other, strict=True)
    )
