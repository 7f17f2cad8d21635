"""Host memory: the region, the pool of slots in it, and the mover of pages.

``region`` is the memory, ``pool`` says which bytes of it are taken, ``mover``
fills and empties slots. None of them knows what a chunk is.
"""

from __future__ import annotations

from lmcache_core.memory.group_mover import GroupMover
from lmcache_core.memory.mover import PageMover
from lmcache_core.memory.native import NativeStatus, native_available, native_status
from lmcache_core.memory.pages import LayerPages, PageTable
from lmcache_core.memory.pool import HostPool, Slot
from lmcache_core.memory.region import HostRegion

__all__ = [
    "GroupMover",
    "HostPool",
    "HostRegion",
    "LayerPages",
    "NativeStatus",
    "PageMover",
    "PageTable",
    "Slot",
    "native_available",
    "native_status",
]
