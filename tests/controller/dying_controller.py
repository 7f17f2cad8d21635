"""A controller that is killed at a named point of a named commit, or held up there.

``python -m tests.controller.dying_controller before|after|FOLDER pending|report|release FLAGS``:
with a folder the commit makes a file ``begun`` there and waits for one called ``go``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

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
    """Kill this process at one point, or hold it up."""
    write = LedgerFile.write

    def dying(file: LedgerFile, changes: Sequence[Change]) -> None:
        meant = what(changes) == step
        if meant and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if meant and when != "after":
            folder = Path(when)
            (folder / "begun").touch()
            until = time.monotonic() + 20
            while not (folder / "go").exists() and time.monotonic() < until:
                time.sleep(0.01)
        write(file, changes)
        if meant and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)

    LedgerFile.write = dying  # type: ignore[method-assign]


if __name__ == "__main__":
    arm(sys.argv[1], sys.argv[2])
    del sys.argv[1:3]
    main()
