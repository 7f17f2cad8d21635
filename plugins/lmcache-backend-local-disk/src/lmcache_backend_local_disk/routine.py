"""A thread that does something now and then."""

from __future__ import annotations

import threading
from collections.abc import Callable

from lmcache_core.log import get_logger

log = get_logger(__name__)

CLOSE_SECONDS = 2.0
"""How long closing waits for what is under way."""

AFTER_A_FAULT_SECONDS = 60.0


class Routine:
    """Calls a function again and again, each time after as many seconds as it has asked for.

    Args:
        name: The thread's name.
        work: Called without the interpreter's attention for long; returns
            how long to wait.
        first_seconds: How long to wait before the first call.
    """

    def __init__(self, name: str, work: Callable[[], float], first_seconds: float) -> None:
        self._work = work
        self._first_seconds = first_seconds
        self._stopped = threading.Event()
        # A daemon: a call that never returns must not keep the process from exiting.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop it, within a bound where a call is under way."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        pause = self._first_seconds
        while not self._stopped.wait(pause):
            try:
                pause = self._work()
            except Exception as error:
                log.exception("disk.routine_failed", routine=self._thread.name, error=str(error))
                pause = AFTER_A_FAULT_SECONDS
