"""A controller that is killed at a named point of a named commit.

``python -m tests.controller.dying_controller before|after pending|report|release FLAGS``
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from lmcache_core.cli.controller import main
from lmcache_core.controller.ledger_file import Change, LedgerFile


def what(changes: Sequence[Change]) -> str | None:
    """Which step of rule 7 a commit is."""
    tables = {change.table for change in changes}
    if "tombstones" in tables:
        return "release"
    if "pins" in tables:
        return "pending"
    return "report" if "standings" in tables else None


def arm(when: str, step: str) -> None:
    """Kill this process at one point."""
    write = LedgerFile.write

    def dying(file: LedgerFile, changes: Sequence[Change]) -> None:
        dies = what(changes) == step
        if dies and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        write(file, changes)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)

    LedgerFile.write = dying  # type: ignore[method-assign]


if __name__ == "__main__":
    arm(sys.argv[1], sys.argv[2])
    del sys.argv[1:3]
    main()
