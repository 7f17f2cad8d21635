"""Frames asked of a store, and what is to be thought of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lmcache_core.engine.entry import Entry
from lmcache_core.engine.frame import FrameSeal
from lmcache_core.errors import FrameError
from lmcache_core.keys import Key


class Read(NamedTuple):
    """A frame to be read into the slot of an entry.

    Attributes:
        entry: Names the frame and owns the slot.
        frame: The slot, header page and payload.
    """

    entry: Entry
    frame: memoryview


class Verdict(NamedTuple):
    """What some reads have come to.

    Attributes:
        whole: For each whether its slot has the frame, every byte verified.
        damaged: Why those that came were not it, by key.
        missing: Those that did not come.
    """

    whole: list[bool]
    damaged: dict[Key, str]
    missing: list[Read]


def judge(
    reads: Sequence[Read], lengths: Sequence[int | None], seal: FrameSeal, namespace: bytes
) -> Verdict:
    """Verify what a store has answered.

    Args:
        reads: What was asked.
        lengths: What it says it has written into each slot.
        seal: Verifies frames.
        namespace: What they were asked under.
    """
    verdict = Verdict([], {}, [])
    for read, length in zip(reads, lengths, strict=True):
        if length is None:
            verdict.missing.append(read)
        elif reason := _fault(read, length, seal, namespace):
            verdict.damaged[read.entry.key] = reason
        verdict.whole.append(length is not None and read.entry.key not in verdict.damaged)
    return verdict


def _fault(read: Read, length: int, seal: FrameSeal, namespace: bytes) -> str | None:
    if length != len(read.frame):
        return f"frame of {length} bytes, expected {len(read.frame)}"
    try:
        seal.verify(read.entry, read.frame, namespace)
    except FrameError as error:
        return str(error)
    return None
