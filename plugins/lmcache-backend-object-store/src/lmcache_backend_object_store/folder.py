"""A folder's objects, read without obstore."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from lmcache_backend_object_store.bucket import Bucket
from lmcache_backend_object_store.found import Found, Version

if TYPE_CHECKING:  # obstore has it for type checkers only
    from obstore.store import LocalStore


class Folder(Bucket):
    """Files, as obstore writes them.

    obstore reads a file into memory of its own, on another thread: a frame that
    the page cache has was in its caller's buffer two to four times later.

    Args:
        store: The client, which writes, lists and removes.
        path: The folder.
    """

    def __init__(self, store: LocalStore, path: Path) -> None:
        super().__init__(store, requests=1, part_bytes=None)
        self._path = path

    async def head(self, name: str) -> Found | None:
        """Tell of a file; None for none. An empty one is the mark of a removal."""
        try:
            found = _found(os.stat(self._path / name))  # noqa: PTH116 - a path of one use
        except FileNotFoundError:
            return None
        return found if found.nbytes else None

    async def read(self, name: str, buffer: memoryview) -> tuple[Found | None, int | None]:
        """Read a whole file into a buffer, unless it is longer."""
        await asyncio.sleep(0)  # so that the deadline is looked at between files
        try:
            file = os.open(self._path / name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None, None
        try:
            found = _found(os.fstat(file))
            if found.nbytes > buffer.nbytes:
                return found, None
            nbytes = 0
            while got := os.preadv(file, [buffer[nbytes : found.nbytes]], nbytes):
                nbytes += got
        finally:
            os.close(file)
        if not found.nbytes:
            await self.delete(name)
            return None, None
        return found, nbytes if nbytes == found.nbytes else None


def _found(status: os.stat_result) -> Found:
    tag = f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"
    return Found(status.st_size, Version(tag, None))
