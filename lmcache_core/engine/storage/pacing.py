"""Long work behind, cut up so that it does not hold up whoever serves."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

PAUSE_SECONDS = 1e-4
"""Between batches. Giving up the interpreter's lock is not enough: who waits for it has to
wake up before it is taken again."""

Item = TypeVar("Item")


def paced(items: Iterable[Item], count: int) -> Iterator[list[Item]]:
    """Cut something into batches with a pause after each.

    Args:
        items: For example keys and lengths, as a backend's ``scan`` yields them.
        count: How many at a time, some tenths of a millisecond's work.

    Yields:
        The same, some at a time.
    """
    left = iter(items)
    while batch := list(islice(left, count)):
        yield batch
        time.sleep(PAUSE_SECONDS)
