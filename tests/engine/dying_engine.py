"""An engine that pins and releases in a folder, and is killed at a named point of a named step.

``python -m tests.engine.dying_engine FOLDER before|after put|sync|remove NUMBER`` prints
each change once it is kept. The point is the NUMBERth call of the backend for a
record, or the NUMBERth sync.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmcache_core.api.frames import is_record
from lmcache_core.engine.frames.calls import BackendCalls
from tests.engine.kept_pins.keeping import engine, pin, unpin
from tests.engine.test_local_disk import Folder
from tests.engine.test_storage_tier import LONG, settle


def arm(when: str, step: str, number: int) -> None:
    """Kill this process at one point."""
    call: Callable[..., Any] = getattr(BackendCalls, step)
    left = number

    def dying(calls: BackendCalls, *args: Any) -> Any:
        nonlocal left
        of_record = step == "sync" or is_record(args[0] if step == "put" else args[0][0])
        left -= of_record
        meant = of_record and left == 0
        if meant and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = call(calls, *args)
        if meant:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    setattr(BackendCalls, step, dying)


def main(folder: Path) -> None:
    """Pin, change and release, telling of each."""
    with engine(Folder(folder)) as rig:
        rig.serve(LONG)
        settle(rig)
        print("started", flush=True)
        for version in (1, 2):
            pin(rig, version=version)
            print(version, flush=True)
        unpin(rig, version=3)
        print("released", flush=True)


if __name__ == "__main__":
    arm(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    main(Path(sys.argv[1]))
