"""System calls with something done before and after each."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lmcache_backend_local_disk.calls import SYSTEM, SystemCalls

NAMES = tuple(name for name in vars(SystemCalls) if not name.startswith("_"))

CHANGING = ("open", "close", "pwritev", "ftruncate", "fsync", "syncfs", "rename", "unlink", "mkdir")
"""Those after which something is otherwise than before."""


class CallsBetween(SystemCalls):
    """The system's calls, each through ``around``."""

    def __init__(self, names: tuple[str, ...] = NAMES) -> None:
        for name in names:
            setattr(self, name, self._between(name, getattr(SYSTEM, name)))

    def around(self, name: str, real: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Make the call, or do something else."""
        return real(*arguments, **options)

    def _between(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            return self.around(name, real, *arguments, **options)

        return call


class FailingCalls(CallsBetween):
    """Lets the Nth call fail.

    Args:
        nth: Which one, from 1 on; 0 for none.
        fault: An error number, or ``short`` for a read or a write that stops
            half way.
        names: The calls that are counted.
        lasting: Whether all later ones fail, too.

    Attributes:
        hit: The call that failed first, None before.
        seen: How many there have been.
    """

    def __init__(
        self,
        nth: int = 0,
        fault: int | str = errno.EIO,
        names: tuple[str, ...] = NAMES,
        *,
        lasting: bool = False,
    ) -> None:
        super().__init__(names)
        self.nth, self.fault, self.lasting = nth, fault, lasting
        self.seen = 0
        self.hit: str | None = None

    def around(self, name: str, real: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        self.seen += 1
        due = self.nth and (self.seen >= self.nth if self.lasting else self.seen == self.nth)
        if not due:
            return real(*arguments, **options)
        if self.fault == "short":
            if name not in ("pwritev", "preadv"):
                return real(*arguments, **options)
            self.hit = self.hit or name
            fd, (view,), offset = arguments
            half = len(view) // 2 // 4096 * 4096 or len(view)
            return real(fd, [memoryview(view)[:half]], offset)
        assert isinstance(self.fault, int)
        self.hit = self.hit or name
        if name == "close":  # Linux has closed it when it says so.
            real(*arguments, **options)
        raise OSError(self.fault, os.strerror(self.fault))


def site(depth: int = 3) -> str:
    """The function that makes a call, as a name for the place."""
    frame = sys._getframe(depth)
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}"


class RecordingCalls(CallsBetween):
    """Notes from where which call is made: the kill points."""

    def __init__(self) -> None:
        super().__init__(CHANGING)
        self.points: dict[str, int] = {}

    def around(self, name: str, real: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        point = f"{name} in {site()}"
        self.points[point] = self.points.get(point, 0) + 1
        return real(*arguments, **options)


class KillingCalls(CallsBetween):
    """Kills the process before, within or after the Nth call from one place.

    Args:
        point: The place, as ``RecordingCalls`` names it.
        when: ``before``, ``within`` or ``after``; only a write has a within.
        nth: Which of the calls from there, from 1 on.
    """

    def __init__(self, point: str, when: str, nth: int) -> None:
        super().__init__(CHANGING)
        self.point, self.when, self.left = point, when, nth

    def around(self, name: str, real: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if f"{name} in {site()}" == self.point:
            self.left -= 1
            if not self.left:
                if self.when == "within" and name == "pwritev":
                    fd, (view,), offset = arguments
                    real(fd, [memoryview(view)[: len(view) // 2 // 4096 * 4096]], offset)
                elif self.when != "before":
                    with suppress(OSError):
                        real(*arguments, **options)
                os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
