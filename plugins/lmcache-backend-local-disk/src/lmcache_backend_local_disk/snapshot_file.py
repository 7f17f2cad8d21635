"""The snapshot in its file: read at the start, written now and then and at the end."""

from __future__ import annotations

import os

from lmcache_backend_local_disk.folder import SNAPSHOT, Folder
from lmcache_backend_local_disk.shard import Shard
from lmcache_backend_local_disk.snapshot import pack_snapshot, parse_snapshot
from lmcache_core.api.host import MetricSink
from lmcache_core.log import get_logger

log = get_logger(__name__)


class SnapshotFile:
    """The hint that spares a start looking at every file.

    Nothing depends on it: what goes wrong with it is logged and no more.

    Args:
        folder: The folder, open.
        shards: Its frames.
        metrics: Where what happens is counted.
    """

    def __init__(self, folder: Folder, shards: list[Shard], metrics: MetricSink) -> None:
        self._folder = folder
        self._shards = shards
        self._metrics = metrics

    def read(self) -> None:
        """Tell each shard what it had."""
        path = str(self._folder.path)
        try:
            content = self._content()
        except FileNotFoundError:
            return
        except OSError as error:
            self._metrics.count("snapshot_failures")
            log.warning("disk.snapshot_unread", path=path, error=error.strerror)
            return
        shards = parse_snapshot(memoryview(content))
        if shards is None:
            self._metrics.count("snapshot_failures")
            log.warning("disk.snapshot_damaged", path=path)
            return
        for taken in shards:
            self._shards[taken.number].hint = taken

    def write(self) -> None:
        """Write down what each shard has."""
        try:
            shards = [taken for shard in self._shards if (taken := shard.snapshot()) is not None]
            self._folder.write_file(SNAPSHOT, pack_snapshot(shards))
        except OSError as error:
            self._metrics.count("snapshot_failures")
            path = str(self._folder.path)
            log.warning("disk.snapshot_failed", path=path, error=error.strerror)

    def _content(self) -> bytearray:
        calls = self._folder.calls
        fd = calls.open(SNAPSHOT, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._folder.root)
        try:
            content = bytearray(calls.fstat(fd).st_size)
            view, at = memoryview(content), 0
            while at < len(content) and (read := calls.preadv(fd, [view[at:]], at)):
                at += read
        finally:
            calls.close(fd)
        return content
