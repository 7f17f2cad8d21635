"""A server that runs in a process group of its own, so that all of it can be ended."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

STOP_SECONDS = 20.0
_KILL_SECONDS = 5.0
_POLL_SECONDS = 0.05


class Server:
    """One server process with its children, and its log.

    Attributes:
        name: For people.
        command: What is run.
        variables: Environment variables set for it beside the inherited ones.
        log: The file that its output goes to.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.variables = dict(variables or {})
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def command_line(self) -> str:
        """The command as a shell takes it, with the variables before it."""
        variables = [f"{key}={shlex.quote(value)}" for key, value in self.variables.items()]
        return " ".join([*variables, shlex.join(self.command)])

    def start(self, inherited: Mapping[str, str]) -> None:
        """Start it.

        Args:
            inherited: The environment that ``variables`` are laid over.
        """
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**inherited, **self.variables},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The first process's id, which names the group; 0 before the start."""
        return self._process.pid if self._process else 0

    @property
    def exit_code(self) -> int | None:
        """How the first process ended, or None while it runs."""
        return self._process.poll() if self._process else None

    def last_lines(self, count: int = 15) -> str:
        """Return the end of its log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    def stop(self) -> None:
        """End it and every process it started; returns when they are gone."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            _wait(lambda: self._process is None or self._process.poll() is not None, STOP_SECONDS)
        # What outlives the first process is told too, then made to go.
        for number, seconds in ((signal.SIGTERM, _KILL_SECONDS), (signal.SIGKILL, _KILL_SECONDS)):
            if not any(group_members(self.pid)):
                break
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            _wait(lambda: not any(group_members(self.pid)), seconds)
        self._process.wait()


def group_members(group: int) -> Iterator[int]:
    """Tell the living processes of a group; a zombie has ended and is not counted."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError, IndexError):
            # The command's name in parentheses may hold anything, spaces too.
            state, _parent, owner = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(owner) == group and state not in "ZX":
                yield int(folder.name)


def _wait(done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
