"""What a loss of power leaves of a folder: what was synced, and of the rest anything.

A killed process loses nothing that it has handed to the kernel. So this
stands between a backend and the system, lets all calls do what they do, and
keeps a second account: of each file what is on the device and what is on its
way there, of each folder which names are. At a loss of power what is on its
way is dropped, torn or kept, each piece for itself and in no order.
"""

from __future__ import annotations

import errno
import os
import random
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.disk.calls_between import CallsBetween

SECTOR = 512


class PowerLoss(BaseException):
    """The machine is off; no handler of errors sees it."""


class File:
    """A file's content, on the device and on its way."""

    def __init__(self, content: bytes = b"") -> None:
        self.durable = bytearray(content)
        self.pending: list[tuple[int, bytes | None]] = []

    def write(self, at: int, data: bytes | None) -> None:
        """Bytes at an offset, or where there are none the file's end."""
        self.pending.append((at, data))

    def sync(self) -> None:
        for at, data in self.pending:
            self._apply(at, data)
        self.pending.clear()

    def after_a_loss(self, rng: random.Random) -> bytes:
        for at, data in self.pending:
            fate = rng.choice(("dropped", "kept", "torn"))
            if fate == "kept" or (fate == "torn" and data is None):
                self._apply(at, data)
            elif fate == "torn" and data is not None:
                for start in range(0, len(data), SECTOR):
                    if rng.random() < 0.5:
                        self._apply(at + start, data[start : start + SECTOR])
        return bytes(self.durable)

    def _apply(self, at: int, data: bytes | None) -> None:
        if data is None:
            del self.durable[at:]
            self.durable.extend(bytes(at - len(self.durable)))
        else:
            self.durable.extend(bytes(max(0, at - len(self.durable))))
            self.durable[at : at + len(data)] = data


class Folder:
    """A folder's names, on the device and as a process sees them."""

    def __init__(self) -> None:
        self.durable: dict[str, Node] = {}
        self.now: dict[str, Node] = {}


Node = File | Folder
Change = list[tuple[Folder, str, Node | None]]
"""Names that come, go or change together, or not at all."""


class LosingCalls(CallsBetween):
    """The system's calls over one folder, with an account of what would survive.

    Args:
        base: The folder; what is in it is on the device.
        off_after: Calls after which the power goes; None for never.
        ignored: Places, as file and line, whose syncs do nothing.
        failing: Which ``fsync`` fails, from 1 on; 0 for none. Of a file, the
            kernel then takes for written what never will be.

    Attributes:
        syncs: Places from which something was synced.
    """

    def __init__(
        self,
        base: Path,
        off_after: int | None = None,
        ignored: frozenset[tuple[str, int]] = frozenset(),
        failing: int = 0,
    ) -> None:
        super().__init__()
        self.failing = failing
        self.base = base
        self.left = off_after
        self.ignored = ignored
        self.syncs: set[tuple[str, int]] = set()
        self._root = _on_device(base)
        self._fds: dict[int, Node] = {}
        self._changes: list[Change] = []
        self._lock = threading.RLock()

    def around(self, name: str, real: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        with self._lock:
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    raise PowerLoss
            if name in ("fsync", "syncfs"):
                frame = sys._getframe(2)
                place = Path(frame.f_code.co_filename).name, frame.f_lineno
                self.syncs.add(place)
                if place not in self.ignored:
                    getattr(self, f"_{name}")(*arguments)
                return None  # There is no device that has to be waited for.
            answer = real(*arguments, **options)
            note = getattr(self, f"_{name}", None)
            if note is not None:
                note(answer, *arguments, **options)
            return answer

    def lose_power(self, into: Path, rng: random.Random) -> None:
        """Make a folder of what is left, and close what was open."""
        for fd in list(self._fds):
            os.close(fd)
        self._fds.clear()
        for change in self._changes:
            if rng.random() < 0.5:
                self._apply(change)
        _make(self._root, into, rng)

    def _open(
        self, fd: int, path: Any, flags: int, mode: int = 0, *, dir_fd: int | None = None
    ) -> None:
        folder, name = self._find(path, dir_fd)
        node = folder.now.get(name)
        if node is None:
            node = File()
            self._change([(folder, name, node)])
        if flags & os.O_TRUNC and isinstance(node, File):
            node.write(0, None)
        self._fds[fd] = node

    def _close(self, _: None, fd: int) -> None:
        self._fds.pop(fd, None)

    def _pwritev(self, written: int, fd: int, views: Sequence[Any], offset: int) -> None:
        node = self._fds[fd]
        assert isinstance(node, File)
        node.write(offset, bytes(views[0])[:written])

    def _ftruncate(self, _: None, fd: int, length: int) -> None:
        node = self._fds[fd]
        assert isinstance(node, File)
        node.write(length, None)

    def _mkdir(self, _: None, path: Any, mode: int, *, dir_fd: int | None = None) -> None:
        folder, name = self._find(path, dir_fd)
        self._change([(folder, name, Folder())])

    def _rename(self, _: None, old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        source, source_name = self._find(old, src_dir_fd)
        target, target_name = self._find(new, dst_dir_fd)
        node = source.now[source_name]
        self._change([(source, source_name, None), (target, target_name, node)])

    def _unlink(self, _: None, path: str, *, dir_fd: int) -> None:
        folder, name = self._find(path, dir_fd)
        self._change([(folder, name, None)])

    def _fsync(self, fd: int) -> None:
        node = self._fds[fd]
        self.failing -= 1
        if not self.failing:
            if isinstance(node, File):
                node.pending.clear()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if isinstance(node, File):
            node.sync()
            return
        synced: set[tuple[int, str]] = set()
        left = []
        for change in reversed(self._changes):
            places = {(id(folder), name) for folder, name, _ in change}
            if any(folder is node for folder, *_ in change):
                synced |= places
            elif not places & synced:  # Otherwise a later one has taken its place.
                left.append(change)
        for change in self._changes:
            if any(folder is node for folder, *_ in change):
                self._apply(change)
        self._changes = left[::-1]

    def _syncfs(self, _: int) -> None:
        for change in self._changes:
            self._apply(change)
        self._changes.clear()
        _sync_all(self._root)

    def _find(self, path: Any, dir_fd: int | None) -> tuple[Folder, str]:
        if dir_fd is None:
            node: Node = self._root
            parts = Path(path).relative_to(self.base).parts
        else:
            node = self._fds[dir_fd]
            parts = Path(path).parts
        for part in parts[:-1]:
            assert isinstance(node, Folder)
            node = node.now[part]
        assert isinstance(node, Folder)
        return node, parts[-1]

    def _change(self, change: Change) -> None:
        for folder, name, node in change:
            if node is None:
                folder.now.pop(name, None)
            else:
                folder.now[name] = node
        self._changes.append(change)

    def _apply(self, change: Change) -> None:
        for folder, name, node in change:
            if node is None:
                folder.durable.pop(name, None)
            else:
                folder.durable[name] = node


def _on_device(path: Path) -> Folder:
    folder = Folder()
    for place in path.iterdir():
        node = _on_device(place) if place.is_dir() else File(place.read_bytes())
        folder.durable[place.name] = folder.now[place.name] = node
    return folder


def _sync_all(folder: Folder) -> None:
    for node in folder.durable.values():
        if isinstance(node, Folder):
            _sync_all(node)
        else:
            node.sync()


def _make(folder: Folder, path: Path, rng: random.Random) -> None:
    path.mkdir()
    for name, node in folder.durable.items():
        if isinstance(node, Folder):
            _make(node, path / name, rng)
        else:
            (path / name).write_bytes(node.after_a_loss(rng))
