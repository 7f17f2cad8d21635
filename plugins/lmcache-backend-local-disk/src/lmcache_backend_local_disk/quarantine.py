"""Damaged files, kept for a while with the reason, within a bound."""

from __future__ import annotations

import os
import time
from contextlib import suppress

from lmcache_backend_local_disk.folder import QUARANTINE, Folder
from lmcache_core.log import get_logger

log = get_logger(__name__)

MAX_FILES = 1000
"""Damaged files kept, however small they are."""

REASON = ".reason"


class Quarantine:
    """Takes files out of the shards; the oldest go when there are too many.

    Args:
        folder: The folder, open.
        limit_bytes: What all of them may take; 0 keeps none.
    """

    def __init__(self, folder: Folder, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes

    def take(self, path: str, reason: str) -> bool:
        """Move a file here; tell whether it was there.

        Args:
            path: The file, from the folder's root.
            reason: Why, one line.

        Raises:
            OSError: It can be neither moved nor removed.
        """
        name = f"{QUARANTINE}/{time.time_ns()}-{path.rpartition('/')[2]}"
        try:
            self._move(path, name)
        except FileNotFoundError:
            if not self._folder.has(path):
                return False
            self._folder.lay_out_again()
            self._move(path, name)
        log.warning("disk.file_quarantined", path=f"{self._folder.path}/{path}", reason=reason)
        # What is told of it must not be what fails: the file is out of the way.
        with suppress(OSError):
            if self._limit_bytes:
                self._write_reason(name + REASON, reason)
            self._prune()
        return True

    def _move(self, path: str, name: str) -> None:
        root = self._folder.root
        self._folder.calls.rename(path, name, src_dir_fd=root, dst_dir_fd=root)

    def _write_reason(self, name: str, reason: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        calls = self._folder.calls
        fd = calls.open(name, flags, 0o600, dir_fd=self._folder.root)
        try:
            calls.pwritev(fd, [f"{reason}\n".encode()], 0)
        finally:
            calls.close(fd)

    def _prune(self) -> None:
        calls = self._folder.calls
        with self._folder.sub_folder(QUARANTINE) as fd:
            listed = calls.listdir(fd)
            names = [name for name in listed if not name.endswith(REASON)]
            # Of a file that went when its reason could not.
            for left in {*listed} - {*names} - {name + REASON for name in names}:
                calls.unlink(left, dir_fd=fd)
            sizes = {name: calls.lstat(name, dir_fd=fd).st_size for name in names}
            total = sum(sizes.values())
            for name in sorted(names):
                if total <= self._limit_bytes and len(sizes) <= MAX_FILES and self._limit_bytes:
                    break
                total -= sizes.pop(name)
                for gone in (name, name + REASON):
                    with suppress(FileNotFoundError, IsADirectoryError):
                        calls.unlink(gone, dir_fd=fd)
