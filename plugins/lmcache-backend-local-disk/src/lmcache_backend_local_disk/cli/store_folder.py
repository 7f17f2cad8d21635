"""A folder of an instance as it lies there, without owning it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from lmcache_backend_local_disk.folder import ASIDE, FRAMES, IDENTITY, LOCK, QUARANTINE, SNAPSHOT
from lmcache_backend_local_disk.identity import Identity
from lmcache_backend_local_disk.names import SHARDS, key_of
from lmcache_backend_local_disk.quarantine import REASON
from lmcache_backend_local_disk.snapshot import parse_snapshot
from lmcache_core.errors import BackendError
from lmcache_core.keys import Key


class FrameFile(NamedTuple):
    """A file under the name of a frame.

    Attributes:
        path: The file.
        key: The key that its name says.
        nbytes: Its length.
    """

    path: Path
    key: Key
    nbytes: int


class Kept(NamedTuple):
    """What a folder has of one kind.

    Attributes:
        files: How many.
        nbytes: What they take.
    """

    files: int
    nbytes: int


class StoreFolder:
    """Reads a folder and changes nothing in it.

    Args:
        path: The folder of one instance.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def find(cls, path: Path) -> list[StoreFolder]:
        """The folders of instances at a path: itself, or those in it.

        Raises:
            BackendError: There is none.
        """
        if _is_one(path):
            return [cls(path)]
        found = (
            [cls(one) for one in sorted(path.iterdir()) if _is_one(one)] if path.is_dir() else []
        )
        if not found:
            raise BackendError(
                f"{path} is no folder of a disk tier and has none in it; give the tier's path "
                "(local_disk), or the folder of one instance in it"
            )
        return found

    @property
    def owner(self) -> str | None:
        """Which process has it open; None for none."""
        try:
            fd = os.open(self.path / LOCK, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return os.pread(fd, 200, 0).decode(errors="replace").strip() or "a process"
        finally:
            os.close(fd)
        return None

    @property
    def identity(self) -> Identity | None:
        """Its name and its format; None where the file is damaged or gone."""
        with suppress(FileNotFoundError):
            return Identity.parse((self.path / IDENTITY).read_bytes())
        return None

    def frames(self) -> Iterator[FrameFile]:
        """Files under the names of frames."""
        for number, shard in enumerate(SHARDS):
            for entry in _entries(self.path / FRAMES / shard):
                key = key_of(entry.name, number)
                if key is not None and entry.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):
                        nbytes = entry.stat(follow_symlinks=False).st_size
                        yield FrameFile(Path(entry.path), key, nbytes)

    def strangers(self) -> list[Path]:
        """What lies among the frames and is none."""
        return [
            Path(entry.path)
            for number, shard in enumerate(SHARDS)
            for entry in _entries(self.path / FRAMES / shard)
            if key_of(entry.name, number) is None or not entry.is_file(follow_symlinks=False)
        ]

    def unfinished(self) -> Kept:
        """Files that were being written; an engine removes them when it starts."""
        return _kept(_entries(self.path / ASIDE))

    def quarantined(self) -> list[tuple[Path, str]]:
        """Damaged files, oldest first, and why they are there."""
        found = []
        for entry in sorted(_entries(self.path / QUARANTINE), key=lambda entry: entry.name):
            if not entry.name.endswith(REASON):
                reason = ""
                with suppress(OSError):
                    reason = Path(f"{entry.path}{REASON}").read_text(errors="replace").strip()
                found.append((Path(entry.path), reason))
        return found

    def quarantine(self) -> Kept:
        """What damaged files take."""
        return _kept(
            entry for entry in _entries(self.path / QUARANTINE) if not entry.name.endswith(REASON)
        )

    def snapshot(self) -> str:
        """What can be said of the snapshot of the index."""
        try:
            shards = parse_snapshot(memoryview((self.path / SNAPSHOT).read_bytes()))
        except FileNotFoundError:
            return "none"
        if shards is None:
            return "damaged"
        current = 0
        for shard in shards:
            with suppress(FileNotFoundError):
                status = (self.path / FRAMES / SHARDS[shard.number]).stat()
                current += (status.st_ino, status.st_mtime_ns) == (shard.inode, shard.changed_ns)
        return f"holds for {current} of {len(SHARDS)} folders"


def _is_one(path: Path) -> bool:
    return (path / IDENTITY).is_file() or (path / FRAMES).is_dir()


def _entries(path: Path) -> Iterator[os.DirEntry[str]]:
    with suppress(FileNotFoundError), os.scandir(path) as entries:
        yield from entries


def _kept(entries: Iterator[os.DirEntry[str]]) -> Kept:
    files = nbytes = 0
    for entry in entries:
        with suppress(FileNotFoundError):
            nbytes += entry.stat(follow_symlinks=False).st_size
            files += 1
    return Kept(files, nbytes)
