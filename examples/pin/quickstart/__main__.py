"""Run the pin example from nothing to an answer, and leave nothing running."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack

from rich.console import Console

from examples.pin.quickstart.interrupt import Interrupted, Interrupts
from examples.pin.quickstart.problem import Problem
from examples.pin.quickstart.servers import controller_server, start, vllm_server, wait_ready
from examples.pin.quickstart.settings import ROOT, read_settings
from examples.pin.quickstart.story import Story

_NEXT = """
Where to go next
  docs/tutorial/pin.md                    the same by hand, command by command
  MODEL=FOLDER_OR_NAME make quickstart    the same with a model of yours
  .venv/bin/lmcache plugins               what is installed
  docs/README.md                          everything else
"""


def main() -> int:
    """Run the example; returns the exit code."""
    interrupts = Interrupts()
    interrupts.install()
    os.chdir(ROOT)  # the commands shown name files from here
    console = Console()
    try:
        with ExitStack() as stopping:
            _run(console, interrupts, stopping)
    except Problem as problem:
        print(f"\n{problem}.", file=sys.stderr)
        return 1
    except Interrupted as interrupted:
        print("\nInterrupted; nothing was left running.", file=sys.stderr)
        return 128 + interrupted.number
    console.print("Both servers were stopped; nothing is left running.")
    console.print(_NEXT, markup=False, highlight=False)
    return 0


def _run(console: Console, interrupts: Interrupts, stopping: ExitStack) -> None:
    console.rule("The pin example")
    with console.status("making the model"):
        settings = read_settings()
    servers = [controller_server(settings), vllm_server(settings)]
    for server in servers:
        console.print(f"\n$ {server.command_line}", markup=False, soft_wrap=True)
        with interrupts.held():
            start(server, settings)
            stopping.callback(server.stop)
            stopping.callback(interrupts.ignore)
    console.print()
    wait_ready(servers, settings, console)
    vllm = servers[-1]

    def restart() -> None:
        vllm.stop()
        with interrupts.held():
            start(vllm, settings)
        wait_ready(servers, settings, console)

    Story(settings, console, restart).tell()


if __name__ == "__main__":
    sys.exit(main())
