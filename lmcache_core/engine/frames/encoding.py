"""How a payload was encoded, as the header of its frame tells it.

ASCII text: the xxh3-64 of the raw payload in 16 lower-case hexadecimal digits,
and behind it, in the order of encoding, ``,NAME:LABEL:LENGTH`` for each serde,
where LENGTH is the decimal number of bytes that it was given.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from lmcache_core.errors import FrameError

WORD = r"[!-+\--9;-~]"
"""A printable character of ASCII that is no space, comma or colon."""

MAX_WORD = 64

_TEXT = re.compile(
    rf"([0-9a-f]{{16}})((?:,{WORD}{{1,{MAX_WORD}}}:{WORD}{{0,{MAX_WORD}}}:[0-9]{{1,15}})+)"
)


class Stage(NamedTuple):
    """One serde's part in it.

    Attributes:
        serde: Its name.
        label: What it says of itself.
        nbytes: Length of what it was given.
    """

    serde: str
    label: str
    nbytes: int


class Encoding(NamedTuple):
    """What was done to a payload.

    Attributes:
        raw_check: xxh3-64 of the payload before anything was done to it.
        stages: What each serde did, in the order of encoding.
    """

    raw_check: int
    stages: tuple[Stage, ...]

    def pack(self) -> bytes:
        """The text as it stands in a header."""
        stages = "".join(f",{serde}:{label}:{nbytes}" for serde, label, nbytes in self.stages)
        return f"{self.raw_check:016x}{stages}".encode("ascii")

    @classmethod
    def parse(cls, text: bytes) -> Encoding:
        """Read the text of a header.

        Raises:
            FrameError: It is none.
        """
        match = _TEXT.fullmatch(text.decode("latin-1"))
        if match is None:
            raise FrameError(f"the frame's serde chain cannot be read: {text[:80]!r}")
        stages = []
        for stage in match[2][1:].split(","):
            serde, label, nbytes = stage.split(":")
            stages.append(Stage(serde, label, int(nbytes)))
        return cls(int(match[1], 16), tuple(stages))
