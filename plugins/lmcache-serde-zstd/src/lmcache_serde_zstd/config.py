"""The configuration of ``zstd``."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class ZstdConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How hard it tries.

    Attributes:
        level: Zstandard's compression level.
    """

    level: Annotated[
        int,
        Meta(
            ge=-100,
            le=19,
            description="Compression level, from -100 (fastest) to 19 (smallest). Frames of every "
            "level are read.",
        ),
    ] = 1
