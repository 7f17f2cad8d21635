"""One sync for what several threads have written."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from lmcache_core.api import Deadline
from lmcache_core.errors import DeadlineExceededError

Item = TypeVar("Item")


class GroupCommit(Generic[Item]):
    """Gathers items while the ones before them are committed, then commits them together.

    There is no thread of its own: of those who wait, one commits for all. Who
    comes when nobody commits does not wait for company.

    Args:
        commit: Commits items; it must not raise, an item says itself what
            became of it.
    """

    def __init__(self, commit: Callable[[list[Item]], None]) -> None:
        self._commit = commit
        self._changed = threading.Condition()
        self._gathering: list[Item] = []
        self._number = 1  # of the group that is gathering
        self._committed = 0  # number of the last one
        self._busy = False

    def commit(self, items: list[Item], deadline: Deadline) -> None:
        """Return once all of these are committed, and all that was handed in before.

        Raises:
            DeadlineExceededError: They have waited too long for those before
                them; none of them is going to be committed.
        """
        with self._changed:
            number = self._number
            self._gathering += items
            while self._busy and self._committed < number:
                # Once they are being committed, that is waited for.
                gathers = self._number == number
                if not self._changed.wait(deadline.remaining_seconds if gathers else None):
                    if self._number != number:
                        continue
                    mine = {id(item) for item in items}
                    self._gathering = [one for one in self._gathering if id(one) not in mine]
                    raise DeadlineExceededError("waiting for a sync", deadline.seconds)
            if self._committed >= number:
                return
            group, self._gathering = self._gathering, []
            self._number += 1
            self._busy = True
        try:
            self._commit(group)
        finally:
            with self._changed:
                self._busy = False
                self._committed = number
                self._changed.notify_all()
