"""Telling the controller how far commands are that take their time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from lmcache_core.api.messages import Progress

PERIOD_SECONDS = 0.25


class ProgressTeller:
    """Tells of each command that has got further, now and then.

    Args:
        send: Hands a message to the link; False when it is dropped.
        instance_id: The engine's id.
        incarnation: Its start time.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        send: Callable[[Progress], object],
        instance_id: str,
        incarnation: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._instance_id = instance_id
        self._incarnation = incarnation
        self._clock = clock
        self._due = 0.0
        self._told: dict[str, tuple[int, int]] = {}

    def tell(self, under_way: Mapping[str, tuple[int, int]]) -> None:
        """Tell of those commands, by request id, that have got further.

        Args:
            under_way: Chunks that each is done with, and of how many.
        """
        now = self._clock()
        if now < self._due:
            return
        self._due = now + PERIOD_SECONDS
        for request_id, (done, total) in under_way.items():
            if self._told.get(request_id) != (done, total):
                self._send(
                    Progress(
                        instance_id=self._instance_id,
                        incarnation=self._incarnation,
                        request_id=request_id,
                        done=done,
                        total=total,
                    )
                )
        self._told = dict(under_way)
