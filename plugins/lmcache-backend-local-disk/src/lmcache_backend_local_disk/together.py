"""Doing several things to disks at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from lmcache_core.api import Deadline
from lmcache_core.errors import DeadlineExceededError

Task = Callable[[], None]


def together(what: str, tasks: Sequence[Task], deadline: Deadline) -> list[BaseException | None]:
    """Run each task, all but the first on a thread of its own.

    Args:
        what: What they do, for messages and names.
        tasks: They; each keeps to the deadline as far as the kernel lets it.
        deadline: Until when they are waited for.

    Returns:
        What each has raised, or None; of one that is not over, a DeadlineExceededError.
    """
    late = DeadlineExceededError(what, deadline.seconds)
    outcomes: list[BaseException | None] = [None, *([late] * (len(tasks) - 1))]

    def run(number: int) -> None:
        try:
            tasks[number]()
            outcomes[number] = None
        except BaseException as error:  # noqa: BLE001 - whoever has asked gets it
            outcomes[number] = error

    # Daemons: a disk that never answers must not keep the process from exiting.
    threads = [
        threading.Thread(target=run, args=(number,), name=f"lmcache-disk-{what}", daemon=True)
        for number in range(1, len(tasks))
    ]
    for thread in threads:
        thread.start()
    if tasks:
        run(0)
    for thread in threads:
        thread.join(deadline.remaining_seconds)
    return list(outcomes)
