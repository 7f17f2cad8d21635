"""The configuration of ``LocalDiskBackend``."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class LocalDiskConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the files are and how they are read and written.

    Attributes:
        path: Folder under which every instance has one of its own, named
            after its id.
        direct_io: Whether to go past the page cache where the file system
            lets us.
        quarantine_size: Most that damaged files may take, in GiB, beside the
            tier's own bound; 0 removes them at once.
    """

    path: Annotated[
        str,
        Meta(
            min_length=1,
            description="Folder under which every instance has one of its own, named by its id.",
        ),
    ]
    direct_io: Annotated[
        bool,
        Meta(description="Whether to go past the page cache, where the file system allows it."),
    ] = True
    quarantine_size: Annotated[
        float,
        Meta(
            ge=0,
            description="Most that damaged files may take, in GiB, beside `max_size`; with 0 they "
            "are removed at once.",
        ),
    ] = 0.25
