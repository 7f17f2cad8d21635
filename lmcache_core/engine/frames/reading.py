"""Frames asked of a store, and what is to be thought of the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from lmcache_core.engine.chunks.entry import Entry
from lmcache_core.engine.frames.frame import ForeignFrameError
from lmcache_core.errors import FrameError, SerdeError
from lmcache_core.keys import Key


class Read(NamedTuple):
    """A frame to be read into the slot of an entry.

    Attributes:
        entry: Names the frame and owns the slot.
        frame: The slot, header page and payload.
    """

    entry: Entry
    frame: memoryview


class Verdict:
    """What some reads have come to.

    Attributes:
        whole: For each whether its slot has the frame, every byte verified.
        damaged: Why those that came were not it, by key.
        foreign: Why those that came are none of this tier's, by key.
        refused: Why a serde could not decode what came as it was stored, by key.
        missing: Those that did not come.
    """

    __slots__ = ("damaged", "foreign", "missing", "refused", "whole")

    def __init__(self) -> None:
        self.whole: list[bool] = []
        self.damaged: dict[Key, str] = {}
        self.foreign: dict[Key, str] = {}
        self.refused: dict[Key, str] = {}
        self.missing: list[Read] = []

    def note(self, read: Read, length: int | None, verify: Callable[[Read, int], object]) -> None:
        """Note what has become of the next read.

        Args:
            read: What was asked.
            length: What the store says it has written.
            verify: Raises what is wrong with that.
        """
        whole = False
        if length is None:
            self.missing.append(read)
        else:
            try:
                verify(read, length)
                whole = True
            except ForeignFrameError as error:
                self.foreign[read.entry.key] = str(error)
            except SerdeError as error:
                self.refused[read.entry.key] = str(error)
            except FrameError as error:
                self.damaged[read.entry.key] = str(error)
        self.whole.append(whole)
