"""Merging what many folders have in the order of use, a part at a time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import le
from typing import NamedTuple

from lmcache_core.keys import Key

PART = 2048
"""About how many are sorted at once, some tenths of a millisecond."""

SAMPLED = 64
"""Of how many one is looked at to find where parts end."""

Found = tuple[int, Key]
"""A use, which begins with when it was, and the key of the frame that was used."""


class Run(NamedTuple):
    """The frames of one folder, those used longest ago first.

    Two lists and no list of pairs: hundreds of thousands of pairs would cost
    more memory than the index, and the time to make them.

    Attributes:
        uses: Numbers that sort by when each was used.
        keys: Whose they are.
    """

    uses: Sequence[int]
    keys: Sequence[Key]

    @classmethod
    def of(cls, uses: dict[Key, int]) -> Run:
        """Make one of what is known of some frames."""
        run = cls(list(uses.values()), list(uses))
        # Nearly always they are in order: the last used is put behind the others.
        if all(map(le, run.uses, islice(run.uses, 1, None))):
            return run
        return cls.sorted(zip(*run, strict=True))

    @classmethod
    def sorted(cls, found: Iterable[Found]) -> Run:
        """Make one of frames in any order."""
        ordered = sorted(found)
        return cls([use for use, _ in ordered], [key for _, key in ordered])


def in_order(runs: Sequence[Run]) -> Iterator[list[Found]]:
    """Yield all of some runs in order, a part at a time.

    A heap over hundreds of runs takes a microsecond and a half for each frame, and sorting
    all at once would hold the interpreter for as long as that takes. So they
    are cut at the same uses into parts, and each part is sorted.
    """
    samples = sorted(use for run in runs for use in run.uses[::SAMPLED])
    ends = samples[PART // SAMPLED :: PART // SAMPLED]
    starts = [0] * len(runs)
    # What is behind the last end is the last part.
    for end in [*ends, None]:
        part: list[Found] = []
        for number, (uses, keys) in enumerate(runs):
            start = starts[number]
            stop = len(uses) if end is None else bisect_left(uses, end, start)
            part += zip(uses[start:stop], keys[start:stop], strict=True)
            starts[number] = stop
        part.sort()
        yield part
