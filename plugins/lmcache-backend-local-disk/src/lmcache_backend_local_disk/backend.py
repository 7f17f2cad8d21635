"""``LocalDiskBackend``: frames in files of one folder, or of several on several disks."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, repeat
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

from lmcache_backend_local_disk.calls import SYSTEM, SystemCalls
from lmcache_backend_local_disk.config import LocalDiskConfig
from lmcache_backend_local_disk.disk import Disk
from lmcache_backend_local_disk.disks import Disks
from lmcache_backend_local_disk.faults import UNREADABLE
from lmcache_backend_local_disk.names import instance_folder
from lmcache_backend_local_disk.ordering import Found
from lmcache_backend_local_disk.routine import Routine
from lmcache_backend_local_disk.scrub import Scrub
from lmcache_backend_local_disk.shard import LONGEST
from lmcache_backend_local_disk.together import together
from lmcache_core.api import (
    BackendContext,
    Deadline,
    PutStatus,
    StorageBackend,
    StoreUsage,
)
from lmcache_core.errors import DeadlineExceededError
from lmcache_core.keys import Key
from lmcache_core.log import get_logger

log = get_logger(__name__)

SNAPSHOT_SECONDS = 600.0
"""Between two snapshots of the index, so that a killed process leaves one."""

SYNC_SECONDS = 60.0
"""How long a sync may take that nobody waits for."""

SCRUB_AFTER_SECONDS = 300.0
"""A start has better things to do than to verify what nobody has asked for."""

MIB = 1 << 20

DONE = (PutStatus.STORED, PutStatus.PRESENT)

Answer = TypeVar("Answer")


class LocalDiskBackend(StorageBackend):
    """Keeps frames in files, and finds them again after a restart.

    Which disk a frame goes to, its key says; where that one is full or fails,
    the next. A frame is found on whichever it is.

    Args:
        config: Its section.
        context: Where it is used; the instance's id names the folders.
        calls: The system's calls; others in tests.
    """

    def __init__(
        self, config: LocalDiskConfig, context: BackendContext, calls: SystemCalls = SYSTEM
    ) -> None:
        self._config = config
        self._calls = calls
        self._metrics = context.metrics
        self._events = context.events
        name = instance_folder(context.instance_id)
        paths = [(Path(path).expanduser() / name).absolute() for path in config.paths]
        self._disks = Disks(
            [Disk(path, config, calls, context) for path in dict.fromkeys(paths)],
            context.metrics,
        )
        self._routines: list[Routine] = []

    @property
    def store_id(self) -> str:
        """The names that the folders were given when they were made."""
        return "+".join(sorted(disk.folder.store_id for disk in self._disks))

    def open(self) -> None:
        """Own the folders and see that they can be written.

        Raises:
            BackendError: None of them can be used; the message says what to do.
        """
        self._disks.open()
        self._routines.append(
            Routine("lmcache-disk-index", self._write_snapshots, SNAPSHOT_SECONDS)
        )
        if self._config.durability == "interval":
            interval = self._config.sync_interval
            self._routines.append(Routine("lmcache-disk-sync", self._sync_now, interval))
        if self._config.scrub_rate:
            rate = self._config.scrub_rate * MIB
            scrub = Scrub(self._disks, rate, self._calls, self._metrics, self._events)
            self._routines.append(Routine("lmcache-disk-scrub", scrub.step, SCRUB_AFTER_SECONDS))
        for routine in self._routines:
            routine.start()

    def close(self) -> None:
        """Let other engines have the folders; idempotent."""
        for routine in self._routines:
            routine.close()
        self._routines.clear()
        for disk in self._disks:
            disk.close()

    def stat(self, keys: Sequence[Key], deadline: Deadline) -> list[int | None]:
        """Tell the length of each file as it is now.

        Raises:
            BackendError: The folder does not answer.
        """
        what = "looking for a frame"
        return [self._ask(what, key, deadline, Disk.stat, None) for key in keys]

    def put(
        self, keys: Sequence[Key], frames: Sequence[memoryview], deadline: Deadline
    ) -> list[PutStatus]:
        """Write each frame aside, then give it its name.

        Raises:
            BackendError: The disks do not take it, for another reason than
                that they are full.
        """
        statuses = [PutStatus.FAILED] * len(keys)
        choices = [self._disks.choices(key) for key in keys]
        left = list(range(len(keys)))
        # All frames on the first choice of each, those that are left on the second, and so on.
        for rank in range(len(self._disks)):
            self._metrics.count("put_elsewhere", len(left) if rank else 0)
            for disk in self._disks:
                here = [index for index in left if choices[index][rank] is disk]
                if here and self._disks.may_ask(disk):
                    outcomes = disk.put(
                        [keys[index] for index in here], [frames[index] for index in here], deadline
                    )
                    for index, outcome in zip(here, outcomes, strict=True):
                        statuses[index] = self._disks.put_status(disk, outcome)
            left = [index for index in left if statuses[index] not in DONE]
            if not left:
                break
        return statuses

    def get(
        self, keys: Sequence[Key], buffers: Sequence[memoryview], deadline: Deadline
    ) -> list[int | None]:
        """Read each file; one that cannot be read is quarantined and is a miss.

        Raises:
            BackendError: The disk does not answer.
        """
        what = "reading a frame"
        return [
            self._ask(what, key, deadline, partial(_read, buffer=buffer), None)
            for key, buffer in zip(keys, buffers, strict=True)
        ]

    def remove(self, keys: Sequence[Key], deadline: Deadline) -> list[bool]:
        """Remove each file.

        Raises:
            BackendError: The disk does not let us.
        """
        what = "removing a frame"
        return [self._ask(what, key, deadline, Disk.remove, otherwise=True) for key in keys]

    def replace(
        self, keys: Sequence[Key], frames: Sequence[memoryview], deadline: Deadline
    ) -> list[bool]:
        """Write each frame aside, then give it the name of the one that is there.

        Raises:
            BackendError: A disk does not take it, for another reason than that
                it is full.
        """
        replaced = []
        for key, frame in zip(keys, frames, strict=True):
            deadline.check("writing a frame")
            disk = self._disks.home(key)
            replaced.append(
                disk is not None
                and self._disks.may_ask(disk)
                and self._disks.put_status(disk, disk.replace(key, frame, deadline))
                is PutStatus.STORED
            )
        return replaced

    def quarantine(
        self, keys: Sequence[Key], reasons: Sequence[str], deadline: Deadline
    ) -> list[bool]:
        """Move each file into the quarantine folder, with its reason.

        Raises:
            BackendError: The disk does not let us.
        """
        what = "quarantining a frame"
        return [
            self._ask(what, key, deadline, partial(Disk.quarantine, reason=reason), otherwise=True)
            for key, reason in zip(keys, reasons, strict=True)
        ]

    def sync(self, deadline: Deadline) -> None:
        """Return once all that was put survives a loss of power.

        Raises:
            BackendError: A disk does not say so.
        """
        idle = [disk for disk in self._disks if disk.synced]
        busy = [disk for disk in self._disks if disk not in idle]
        # The idle ones have no thread: at most a sync that is under way has to be waited for.
        parts = [busy[:1] + idle, *([disk] for disk in busy[1:])]
        tasks = [partial(self._sync, part, deadline) for part in parts]
        for raised in together("sync", tasks, deadline):
            if raised is not None:
                raise raised

    def scan(self) -> Iterator[tuple[Key, int]]:
        """Yield every frame, those used longest ago first.

        Raises:
            BackendError: The folder cannot be listed.
        """
        streams: list[tuple[Disk, Iterator[list[Found]]]] = []
        for disk in self._disks:
            try:
                found = disk.found()
            except OSError as error:
                self._disks.failed(disk, "listing frames", error)
            else:
                streams.append((disk, found))
        if len(streams) == 1:
            for part in streams[0][1]:
                yield from [(key, use & LONGEST) for use, key in part]
            return
        frames = [zip(chain.from_iterable(parts), repeat(disk)) for disk, parts in streams]
        for (use, key), disk in heapq.merge(*frames, key=itemgetter(0)):
            if self._disks.home(key) is disk:
                yield key, use & LONGEST
            else:  # It was put elsewhere while this disk was full or did not answer.
                self._ask_disk(disk, "removing a frame", key, Disk.remove, otherwise=True)

    def usage(self) -> StoreUsage:
        """Tell what the files take, byte by byte, file systems' rounding aside.

        Raises:
            BackendError: The folder cannot be listed.
        """
        used = frames = 0
        for disk in self._disks:
            try:
                nbytes, count = disk.usage()
            except OSError as error:
                self._disks.failed(disk, "listing frames", error)
            else:
                used, frames = used + nbytes, frames + count
        return StoreUsage(used, frames)

    def _ask(
        self,
        what: str,
        key: Key,
        deadline: Deadline,
        ask: Callable[[Disk, Key], Answer],
        otherwise: Answer,
    ) -> Answer:
        """Ask the disk that has a frame; where it does not answer, the frame is lost."""
        deadline.check(what)
        disk = self._disks.home(key)
        return otherwise if disk is None else self._ask_disk(disk, what, key, ask, otherwise)

    def _ask_disk(
        self,
        disk: Disk,
        what: str,
        key: Key,
        ask: Callable[[Disk, Key], Answer],
        otherwise: Answer,
    ) -> Answer:
        if self._disks.may_ask(disk):
            try:
                answer = ask(disk, key)
            except OSError as error:
                self._disks.failed(disk, what, error)
            else:
                self._disks.answered(disk)
                return answer
        disk.give_up(key)
        return otherwise

    def _write_snapshots(self) -> float:
        for disk in self._disks:
            disk.snapshot.write()
        return SNAPSHOT_SECONDS

    def _sync(self, disks: Sequence[Disk], deadline: Deadline) -> None:
        for disk in disks:
            try:
                disk.sync(deadline)
            except OSError as error:
                raise self._disks.failed(disk, "syncing frames", error) from error

    def _sync_now(self) -> float:
        for disk in self._disks:
            try:
                disk.sync(Deadline(SYNC_SECONDS), behind=True)
            except (OSError, DeadlineExceededError) as error:
                log.warning("disk.sync_failed", path=str(disk.folder.path), error=str(error))
                self._metrics.count("failures")
        return self._config.sync_interval


def _read(disk: Disk, key: Key, buffer: memoryview) -> int | None:
    try:
        return disk.get(key, buffer)
    except OSError as error:
        if error.errno not in UNREADABLE:
            raise
        disk.quarantine(key, f"it cannot be read: {error.strerror}")
        return None
