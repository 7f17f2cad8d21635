"""A process to be killed: a fork that obeys lines on one pipe and tells what it does on another.

``go SEED``    work until told otherwise
``kill …``     end by a kill at a place, see :class:`KillPlan`
``look``       stop working, let everything settle, tell what there is
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import traceback
from collections.abc import Callable
from typing import NamedTuple

Say = Callable[[str], None]


class KillPlan(NamedTuple):
    """How a child ends.

    Attributes:
        point: The place, or None for a kill by its parent.
        when: ``before``, ``within`` or ``after``.
        nth: Which time it comes there.
    """

    point: str | None = None
    when: str = "after"
    nth: int = 1


class Child:
    """A fork, and the pipes to it.

    Args:
        live: What it does, with a file of orders and a way to say lines.
    """

    def __init__(self, live: Callable[[int, Say], None]) -> None:
        told, say = os.pipe()
        orders, order = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            status = 1
            try:
                os.close(told)
                os.close(order)
                logging.disable(logging.WARNING)
                live(orders, lambda line: _write(say, line))
                status = 0
            except BaseException:  # noqa: BLE001 - a child must not go on as its parent
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(say)
        os.close(orders)
        self.told, self._order = told, order
        self._buffer = b""
        self.ended = False

    def order(self, line: str) -> None:
        """Tell it what to do; one that is dead does nothing."""
        with contextlib.suppress(BrokenPipeError):
            _write(self._order, line)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def read(self) -> list[str]:
        """The lines that have come, at least one unless it is dead."""
        piece = os.read(self.told, 1 << 16)
        self.ended = not piece
        *lines, self._buffer = (self._buffer + piece).split(b"\n")
        return [line.decode() for line in lines]

    def reap(self) -> int:
        """Wait for its end; by which signal it came, or 0.

        Raises:
            RuntimeError: It failed.
        """
        os.close(self.told)
        os.close(self._order)
        _, status = os.waitpid(self.pid, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status):
            raise RuntimeError("a child failed; its traceback is above")
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def _write(pipe: int, line: str) -> None:
    data = line.encode() + b"\n"
    while data:
        data = data[os.write(pipe, data) :]


class Lines:
    """Lines as they come from a pipe."""

    def __init__(self, pipe: int) -> None:
        self._pipe, self._left = pipe, b""

    def come(self, seconds: float | None) -> list[str]:
        """Those that are there, or come within some seconds."""
        if not select.select([self._pipe], [], [], seconds)[0]:
            return []
        piece = os.read(self._pipe, 4096)
        if not piece:
            os._exit(0)  # Nobody is there to be told anything.
        *lines, self._left = (self._left + piece).split(b"\n")
        return [line.decode() for line in lines]
