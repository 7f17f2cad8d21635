"""``ShelfBackend``: frames as files in a folder."""

from __future__ import annotations

import errno
import os
import socket
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from lmcache_core.api import BackendContext, Deadline, PutStatus, StorageBackend
from lmcache_core.errors import BackendError
from lmcache_core.keys import Key

from lmcache_backend_shelf.config import Config

PART = ".part"
"""Ending of a file that is being written."""


class ShelfBackend(StorageBackend):
    """Keeps each frame in a file named by its key.

    The calls come from several threads at once. There is no lock, because
    there is no state but the folder, and each change of it is one system call.

    Args:
        config: The section of the configuration.
        context: Where the backend is used.
    """

    def __init__(self, config: Config, context: BackendContext) -> None:
        own = f"engine-{quote(context.instance_id, safe='')}"
        self._folder = Path(config.path).absolute() / own

    @property
    def store_id(self) -> str:
        """The host and the folder: who has both the same has the same files."""
        return f"{socket.gethostname()}:{self._folder}"

    def open(self) -> None:
        """Make the folder, and remove what a killed process has left half written."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for part in self._folder.glob(f"*{PART}"):
                part.unlink(missing_ok=True)
        except OSError as error:
            raise BackendError(
                f"ShelfBackend cannot use the folder {self._folder}: {error}; "
                "name one that this process may write to"
            ) from error

    def stat(self, keys: Sequence[Key], deadline: Deadline) -> list[int | None]:
        """Tell the length of each frame."""
        with self._answering():
            return [self._length(key, deadline) for key in keys]

    def put(
        self, keys: Sequence[Key], frames: Sequence[memoryview], deadline: Deadline
    ) -> list[PutStatus]:
        """Write each frame aside and give it its name."""
        return [self._put(key, frame, deadline) for key, frame in zip(keys, frames, strict=True)]

    def get(
        self, keys: Sequence[Key], buffers: Sequence[memoryview], deadline: Deadline
    ) -> list[int | None]:
        """Read each frame straight into the caller's buffer."""
        with self._answering():
            return [
                self._get(key, buffer, deadline) for key, buffer in zip(keys, buffers, strict=True)
            ]

    def remove(self, keys: Sequence[Key], deadline: Deadline) -> list[bool]:
        """Remove each file; a reader that has it open reads on."""
        with self._answering():
            return [self._remove(key, deadline) for key in keys]

    def close(self) -> None:
        """Nothing is kept open between calls."""

    def scan(self) -> Iterator[tuple[Key, int]]:
        """Yield what is in the folder, so that a restarted engine finds it again."""
        with self._answering(), os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(PART):
                    continue
                try:
                    yield bytes.fromhex(entry.name), entry.stat().st_size
                except FileNotFoundError:
                    continue  # removed since it was listed

    def _length(self, key: Key, deadline: Deadline) -> int | None:
        deadline.check("stat")
        try:
            return self._file(key).stat().st_size
        except FileNotFoundError:
            return None

    def _put(self, key: Key, frame: memoryview, deadline: Deadline) -> PutStatus:
        deadline.check("put")
        file = self._file(key)
        try:
            if file.exists():
                return PutStatus.PRESENT
            self._write(file, frame)
        except FileExistsError:
            return PutStatus.PRESENT  # another writer was first
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            return PutStatus.FULL if full else PutStatus.FAILED
        return PutStatus.STORED

    def _write(self, file: Path, frame: memoryview) -> None:
        part = self._folder / f"{uuid.uuid4().hex}{PART}"
        try:
            with part.open("xb") as stream:
                stream.write(frame)
            # Unlike a rename, a link fails where the name is taken.
            os.link(part, file)
        finally:
            part.unlink(missing_ok=True)

    def _get(self, key: Key, buffer: memoryview, deadline: Deadline) -> int | None:
        deadline.check("get")
        try:
            with self._file(key).open("rb", buffering=0) as stream:
                length = os.fstat(stream.fileno()).st_size
                if length > buffer.nbytes:
                    return None
                return length if stream.readinto(buffer[:length]) == length else None
        except FileNotFoundError:
            return None

    def _remove(self, key: Key, deadline: Deadline) -> bool:
        deadline.check("remove")
        try:
            self._file(key).unlink()
        except FileNotFoundError:
            return False
        return True

    def _file(self, key: Key) -> Path:
        return self._folder / key.hex()

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Tell the tier that the store did not answer; it goes on without it."""
        try:
            yield
        except OSError as error:
            raise BackendError(f"the folder {self._folder} did not answer: {error}") from error
