"""The disks that frames are spread over, and which of them may be asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lmcache_backend_local_disk.disk import Disk
from lmcache_backend_local_disk.faults import FULL, OUR_OWN, told
from lmcache_core.api import PutStatus
from lmcache_core.api.host import MetricSink
from lmcache_core.errors import BackendError
from lmcache_core.keys import Key
from lmcache_core.log import get_logger

log = get_logger(__name__)


class Disks:
    """One disk or several; of several, one that fails costs only its part.

    A disk that fails is left alone for a while and then tried again. Where
    there is no other, that is the tier's business above.

    Args:
        disks: They, not opened yet.
        metrics: Where what happens is counted.
    """

    def __init__(self, disks: Sequence[Disk], metrics: MetricSink) -> None:
        self._disks = list(disks)
        self._metrics = metrics

    def __iter__(self) -> Iterator[Disk]:
        return iter(self._disks)

    def __len__(self) -> int:
        return len(self._disks)

    def open(self) -> None:
        """Open those that can be used, and leave out the others until the next start.

        Raises:
            BackendError: None of them can be used.
        """
        usable: list[Disk] = []
        for disk in self._disks:
            try:
                disk.open()
            except BackendError as error:
                if not usable and disk is self._disks[-1]:
                    raise
                log.warning("disk.left_out", path=str(disk.folder.path), error=str(error))
            else:
                log.info("disk.opened", path=str(disk.folder.path), direct_io=disk.direct)
                usable.append(disk)
        self._disks = usable
        self._show()

    def choices(self, key: Key) -> list[Disk]:
        """Where a frame may go: to the disk that has it, or to one by its key, or to the next."""
        first = self.home(key)
        if first is None:
            first = self._disks[int.from_bytes(key[1:5], "little") % len(self._disks)]
        at = self._disks.index(first)
        return self._disks[at:] + self._disks[:at]

    def home(self, key: Key) -> Disk | None:
        """The disk that has a frame; the only one where there is one."""
        if len(self._disks) == 1:
            return self._disks[0]
        for disk in self._disks:
            try:
                if disk.length(key) is not None:
                    return disk
            except OSError as error:
                self.failed(disk, "listing frames", error)
        return None

    def may_ask(self, disk: Disk) -> bool:
        """Whether a disk works, or is the only one, or may be tried again.

        Raises:
            BackendError: None of several works.
        """
        if len(self._disks) == 1 or disk.health.works():
            return True
        if not self._any_works():
            raise BackendError(str(disk.health.reason))
        return False

    def failed(self, disk: Disk, what: str, error: OSError) -> BackendError:
        """Note that a disk has not done what it was asked for.

        Returns:
            The error as the tier would get it.

        Raises:
            BackendError: There is no other that works, or it is not the
                disk's fault.
        """
        self._metrics.count("failures")
        reason = told(what, disk.folder.path, error, owned=disk.folder.still_owned())
        if error.errno in OUR_OWN:
            raise reason from error
        disk.health.failed(str(reason))
        self._show()
        if not self._any_works():
            raise reason from error
        return reason

    def put_status(self, disk: Disk, outcome: PutStatus | OSError) -> PutStatus:
        """What the tier is told of a write, and what is thought of the disk.

        Raises:
            BackendError: See :meth:`failed`.
        """
        full = outcome is PutStatus.FULL or (isinstance(outcome, OSError) and outcome.errno in FULL)
        if full:
            self._metrics.count("full")
            self._has_room(disk, room=False)
            return PutStatus.FULL
        if isinstance(outcome, OSError):
            self.failed(disk, "writing a frame", outcome)
            return PutStatus.FAILED
        if outcome is PutStatus.STORED:
            self._has_room(disk, room=True)
            self.answered(disk)
        return outcome

    def answered(self, disk: Disk) -> None:
        """Note that a disk has done what it was asked for."""
        if disk.health.answered():
            disk.clear_given_up()
            self._show()

    def _has_room(self, disk: Disk, *, room: bool) -> None:
        if room is disk.health.full:
            disk.health.has_room(room=room)
            self._show()

    def _show(self) -> None:
        self._metrics.gauge("failing_disks", sum(d.health.reason is not None for d in self))
        self._metrics.gauge("full_disks", sum(d.health.full for d in self))

    def _any_works(self) -> bool:
        return any(disk.health.reason is None for disk in self._disks)
