"""The processor's time of the threads of this process that serve the controller."""

from __future__ import annotations

import threading
import time
from pathlib import Path

THREADS = {"control": "lmcache-control", "link": "ZMQbg/IO"}
"""What the engine's own thread and that of its ZeroMQ link are called."""


class ThreadClocks:
    """The kernel's clocks of those threads; none where there is no control link.

    Attributes:
        thread_ids: Of the threads.
    """

    def __init__(self) -> None:
        self.thread_ids: list[int] = []
        python = {thread.native_id: thread.name for thread in threading.enumerate()}
        self._clocks: dict[str, int] = {}
        for task in Path("/proc/self/task").iterdir():
            name = python.get(int(task.name)) or (task / "comm").read_text()
            for label, prefix in THREADS.items():
                if name.startswith(prefix):
                    self.thread_ids.append(int(task.name))
                    # What pthread_getcpuclockid makes of a thread's number.
                    self._clocks[label] = (~int(task.name) << 3) | 6

    def seconds(self) -> dict[str, float]:
        """Seconds that each has run."""
        return {label: time.clock_gettime(clock) for label, clock in self._clocks.items()}
