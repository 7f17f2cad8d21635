"""Where a process runs, as far as it decides about sharing memory."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import msgspec


class Place(msgspec.Struct, frozen=True, array_like=True):
    """A host since its last start, and a process namespace on it.

    Attributes:
        boot_id: The kernel's id of this boot, which no two hosts share.
        pid_namespace: Where a process id means the same process.
    """

    boot_id: str
    pid_namespace: str

    @classmethod
    def here(cls) -> Self:
        """The place of this process."""
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return cls(boot_id, str(Path("/proc/self/ns/pid").readlink()))

    def apart_from(self, other: Place) -> str | None:
        """What keeps two processes from sharing memory, or None where nothing does."""
        if self.boot_id != other.boot_id:
            return f"on another host (boot id {self.boot_id}, not {other.boot_id})"
        if self.pid_namespace != other.pid_namespace:
            return (
                f"in another process namespace ({self.pid_namespace}, not {other.pid_namespace}; "
                "containers of one pod can share one)"
            )
        return None
