"""The text that names a folder and its format, and proves that it is whole."""

from __future__ import annotations

import uuid
from typing import NamedTuple

import xxhash

WORD = "lmcache-disk"

FORMAT = 1
"""Layout of the folder; one of a higher number is not touched."""


class Identity(NamedTuple):
    """What the file ``store`` says.

    Attributes:
        format: Layout of the folder.
        name: The name it was given when it was made.
    """

    format: int
    name: str

    @classmethod
    def new(cls) -> Identity:
        """A name that no other folder has."""
        return cls(FORMAT, str(uuid.uuid4()))

    @classmethod
    def parse(cls, text: bytes) -> Identity | None:
        """Read it; None where it is damaged.

        What a later format may say behind the name is left alone: its line,
        too, ends with its checksum, so that it is told from a damaged one.
        """
        said, _, check = text.rstrip(b"\n").rpartition(b" ")
        words = said.decode(errors="replace").split()
        if xxhash.xxh3_64_hexdigest(said).encode() != check or len(words) < 3:
            return None
        return cls(int(words[1]), words[2]) if words[0] == WORD and words[1].isdecimal() else None

    def pack(self) -> bytes:
        """The file's content: one line that ends with a checksum of the rest of it."""
        said = f"{WORD} {self.format} {self.name}".encode()
        return said + b" " + xxhash.xxh3_64_hexdigest(said).encode() + b"\n"
