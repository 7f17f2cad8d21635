"""Going through what a store has kept without holding up whoever serves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice

from lmcache_core.keys import Key

BATCH_FRAMES = 128
"""Frames taken in under one hold of the engine's lock, some tenths of a millisecond."""

PAUSE_SECONDS = 1e-4
"""Between batches. Giving up the interpreter's lock is not enough: who waits for it has to
wake up before it is taken again."""


def paced(found: Iterator[tuple[Key, int]]) -> Iterator[list[tuple[Key, int]]]:
    """Cut a scan into batches with a pause after each.

    Args:
        found: Keys and lengths, as a backend's ``scan`` yields them.

    Yields:
        The same, some at a time.
    """
    while batch := list(islice(found, BATCH_FRAMES)):
        yield batch
        time.sleep(PAUSE_SECONDS)
