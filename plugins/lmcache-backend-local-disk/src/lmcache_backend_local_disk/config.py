"""The configuration of ``LocalDiskBackend``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Folder = Annotated[str, Meta(min_length=1)]


class LocalDiskConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the files are and how they are read, written and kept.

    Attributes:
        path: Folder, or several on several disks, under which every instance
            has one of its own, named after its id.
        direct_io: Whether to go past the page cache where the file system
            lets us.
        durability: What survives a loss of power; see the description.
        sync_interval: Seconds between syncs where ``durability`` is
            ``interval``.
        min_free_space: What is left free of the file system, in GiB.
        scrub_rate: MiB/s at which files are verified behind; 0 for never.
        quarantine_size: Most that damaged files may take, in GiB, beside the
            tier's own bound; 0 removes them at once.
    """

    path: Annotated[
        Folder | Annotated[list[Folder], Meta(min_length=1)],
        Meta(
            description="Folder under which every instance has one of its own, named by its id; "
            "or a list of them on several disks, over which the frames are spread.",
        ),
    ]
    direct_io: Annotated[
        bool,
        Meta(description="Whether to go past the page cache, where the file system allows it."),
    ] = True
    durability: Annotated[
        Literal["none", "interval", "always"],
        Meta(
            description="What survives a loss of power. `always`: every frame before it is "
            "reported stored, those of several threads with one sync. `interval`: all that is "
            "older than `sync_interval`. `none`: what the file system has put onto the disk."
        ),
    ] = "none"
    sync_interval: Annotated[
        float,
        Meta(gt=0, description="Seconds between syncs where `durability` is `interval`."),
    ] = 5.0
    min_free_space: Annotated[
        float,
        Meta(
            ge=0,
            description="GiB of the file system that are left free, whoever else writes to it.",
        ),
    ] = 0.0
    scrub_rate: Annotated[
        float,
        Meta(ge=0, description="MiB/s at which files are read and verified behind; 0 for never."),
    ] = 4.0
    quarantine_size: Annotated[
        float,
        Meta(
            ge=0,
            description="Most that damaged files may take, in GiB, beside `max_size`; with 0 they "
            "are removed at once.",
        ),
    ] = 0.25

    @property
    def paths(self) -> list[str]:
        """The folders, one for each disk."""
        return [self.path] if isinstance(self.path, str) else list(self.path)
