"""A plugin of vLLM's that plants faults in the copies of one rank.

Ranks are processes of their own, out of a test's reach. A test installs this
module as a general plugin, which vLLM loads in each of them; before each copy
it reads which fault the test wants from the file that ``LMCACHE_RANK_FAULTS``
names: a rank, a direction and what is to happen.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LONGEST_SECONDS = 60.0


def register() -> None:
    """Put the faults between the connector and the mover, in ranks only."""
    if multiprocessing.parent_process() is None:
        # The test's own process schedules, and loads general plugins too.
        return
    from lmcache_core.memory import PageMover

    PageMover.gather = faulty("gather", PageMover.gather)  # type: ignore[method-assign]
    PageMover.scatter = faulty("scatter", PageMover.scatter)  # type: ignore[method-assign]
    let_stages_run_without_a_compiler()


def let_stages_run_without_a_compiler() -> None:
    """Do what vLLM 0.32 omits in an eager pipeline stage on a CPU.

    It makes the buffer for what comes from the stage before only in the run
    that warms up a compiled model, and fails in the first step without it.
    """
    from vllm.v1.worker.cpu_worker import CPUWorker

    determine = CPUWorker.determine_available_memory

    def determine_available_memory(worker: Any) -> int:
        if worker.parallel_config.pipeline_parallel_size > 1:
            worker.model_runner.profile_run()
        return int(determine(worker))

    CPUWorker.determine_available_memory = determine_available_memory


def faulty(direction: str, move: Callable[..., int]) -> Callable[..., int]:
    def moves(mover: Any, copies: Any) -> int:
        due = time.monotonic() + LONGEST_SECONDS
        while (fault := planted(direction)) == "lag" and time.monotonic() < due:
            time.sleep(0.01)  # another process: there is nothing to be woken by
        if fault == "fail":
            raise RuntimeError("planted")
        return 0 if fault == "drop" else move(mover, copies)

    return moves


def planted(direction: str) -> str:
    """What is to happen to a copy of this rank, or nothing."""
    from vllm.distributed.parallel_state import get_world_group

    text = Path(os.environ["LMCACHE_RANK_FAULTS"]).read_text()
    rank, _, rest = text.partition(" ")
    where, _, what = rest.partition(" ")
    return what if rank == str(get_world_group().rank) and where == direction else ""
