"""The configuration of ``LocalCPUBackend``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class LocalCPUConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the memory is had and shared.

    Attributes:
        shared: ``memfd`` is an unnamed memory file that other processes open
            through ``/proc``; ``shm`` an exclusive file in ``/dev/shm`` that
            loses its name once all processes have it; ``auto`` takes the
            first wherever others may open it.
        hugepages: Whether to ask the kernel for huge pages.
        prefault: Whether to commit all of it at the start instead of as it is
            used.
    """

    shared: Annotated[
        Literal["auto", "memfd", "shm"],
        Meta(description="How the region is shared: `auto`, `memfd`, or `shm` (`/dev/shm`)."),
    ] = "auto"
    hugepages: Annotated[
        bool, Meta(description="Whether to ask the kernel for transparent huge pages.")
    ] = False
    prefault: Annotated[
        bool, Meta(description="Whether to commit all memory at the start, not as it is used.")
    ] = False
