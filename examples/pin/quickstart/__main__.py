"""Run the pin example from nothing to an answer, and leave nothing running."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack
from types import FrameType

from rich.console import Console

from examples.pin.quickstart.problem import Problem
from examples.pin.quickstart.server import Server
from examples.pin.quickstart.servers import controller_server, start, vllm_server, wait_ready
from examples.pin.quickstart.settings import ROOT, read_settings
from examples.pin.quickstart.story import Story

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_NEXT = """
Where to go next
  docs/tutorial/pin.md                the same by hand, command by command
  MODEL=meta-llama/... make quickstart  the same with a model of yours
  .venv/bin/lmcache plugins           what is installed
  docs/README.md                      everything else
"""


class _Interrupted(BaseException):
    """A signal asks to stop; no ``except Exception`` may swallow it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main() -> int:
    """Run the example; returns the exit code."""
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    os.chdir(ROOT)  # the commands shown name files from here
    console = Console()
    try:
        with ExitStack() as servers:
            _run(console, servers)
    except Problem as problem:
        print(f"\n{problem}.", file=sys.stderr)
        return 1
    except _Interrupted as interrupted:
        print("\nInterrupted; nothing was left running.", file=sys.stderr)
        return 128 + interrupted.number
    console.print("Both servers were stopped; nothing is left running.")
    console.print(_NEXT, markup=False, highlight=False)
    return 0


def _run(console: Console, stopping: ExitStack) -> None:
    console.rule("The pin example")
    with console.status("making the model"):
        settings = read_settings()
    servers = [controller_server(settings), vllm_server(settings)]
    for server in servers:
        console.print(f"\n$ {server.command_line}", markup=False, soft_wrap=True)
        stopping.callback(_stop, server)
        start(server, settings)
    console.print()
    wait_ready(servers, settings, console)
    Story(settings, console).tell()


def _stop(server: Server) -> None:
    # A second Ctrl-C must not leave half of the processes behind.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    server.stop()


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise _Interrupted(number)


if __name__ == "__main__":
    sys.exit(main())
