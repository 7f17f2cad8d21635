"""Lists that come in pages."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Annotated, TypeVar

from litestar.params import Parameter

ItemT = TypeVar("ItemT")

Limit = Annotated[int, Parameter(query="limit", ge=1, le=1000)]
"""How many items a page has at the most."""


def page_of(items: Iterable[ItemT], limit: int) -> tuple[list[ItemT], ItemT | None]:
    """The first items, and the last of them where there are more behind it."""
    found = list(itertools.islice(items, limit + 1))
    return found[:limit], found[limit - 1] if len(found) > limit else None
