"""The keys of ``ShelfBackend`` in a configuration."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the frames are.

    Attributes:
        path: Folder in which every instance has one of its own.
    """

    path: Annotated[
        str, Meta(min_length=1, description="Folder in which every instance has one of its own.")
    ]
