"""Verifying all files of a folder, with something to watch meanwhile."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from lmcache_backend_local_disk.calls import SYSTEM
from lmcache_backend_local_disk.cli.store_folder import FrameFile
from lmcache_backend_local_disk.faults import UNREADABLE, told
from lmcache_backend_local_disk.frame_check import FrameCheck


class Damage(NamedTuple):
    """A damaged file.

    Attributes:
        file: Which one.
        reason: What is wrong with it.
    """

    file: FrameFile
    reason: str


class Verified(NamedTuple):
    """What came of it.

    Attributes:
        files: How many were read.
        nbytes: What they take.
        damaged: Those that are damaged.
    """

    files: int
    nbytes: int
    damaged: list[Damage]


def verify(
    folder: Path,
    frames: Iterable[FrameFile],
    rate: float | None,
    on_damage: Callable[[Damage], object],
    *,
    direct: bool,
    quiet: bool,
) -> Verified:
    """Read and check files.

    Args:
        folder: Whose they are, to be told.
        frames: The files.
        rate: Bytes per second at most; None for as fast as it goes.
        on_damage: Called with each damaged file as it is found.
        direct: Whether to go past the page cache.
        quiet: Whether there is nothing to watch.

    Raises:
        BackendError: A file cannot be read for a reason that is none of its own.
    """
    check = FrameCheck(SYSTEM, direct=direct)
    frames = list(frames)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    files = nbytes = 0
    damaged: list[Damage] = []
    begun = time.monotonic()
    with Progress(*columns, console=console, disable=quiet or not sys.stderr.isatty()) as progress:
        task = progress.add_task(folder.name, total=sum(frame.nbytes for frame in frames))
        for frame in frames:
            try:
                reason = check.reason(None, str(frame.path), frame.key)
            except FileNotFoundError:
                continue  # An engine has removed it.
            except OSError as error:
                if error.errno not in UNREADABLE:
                    raise told(f"reading {frame.path.name}", folder, error, owned=True) from error
                reason = f"it cannot be read: {error.strerror}"
            files, nbytes = files + 1, nbytes + frame.nbytes
            if reason is not None:
                damage = Damage(frame, reason)
                damaged.append(damage)
                on_damage(damage)
            progress.advance(task, frame.nbytes)
            if rate:
                time.sleep(max(0.0, nbytes / rate - (time.monotonic() - begun)))
    return Verified(files, nbytes, damaged)
