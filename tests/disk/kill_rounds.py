"""The command line of what kills processes in rounds, and compares what is left."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

MEMORY = Path("/dev/shm")


class Rounds(Protocol):
    """Rounds of kills, counted.

    Attributes:
        counts: Of what there was how much; ``kills``, ``at a random moment`` and
            ``acknowledged`` among them.
        faults: What was wrong with what was left.
    """

    counts: Counter[str]
    faults: list[str]

    @property
    def places(self) -> Mapping[str, int]:
        """How often a process was killed at each place."""

    def round(self, number: int) -> None:
        """Some kills over one folder."""


def main(
    summary: str,
    make: Callable[[int, Path | None], Rounds],
    *,
    also: Mapping[str, str] | None = None,
) -> int:
    """Run from the command line.

    Args:
        summary: What it does, one line.
        make: Makes the rounds of a seed, with where they work or None.
        also: Further figures, and which of the counts they are.

    Returns:
        Whether there were faults, as the process's status.
    """
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("--kills", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no round after")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 30))
    parser.add_argument("--only", type=int, metavar="ROUND")
    parser.add_argument("--folder", type=Path, help="where to work; in memory where that can be")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    print(f"seed {args.seed}", file=sys.stderr, flush=True)
    begun = time.monotonic()
    run = make(args.seed, args.folder or (MEMORY if MEMORY.is_dir() else None))
    number = 0 if args.only is None else args.only
    while not run.faults and run.counts["kills"] < args.kills:
        run.round(number)
        number += 1
        if args.only is not None or time.monotonic() - begun > args.seconds:
            break
        if sys.stderr.isatty() or number % 20 == 0:
            seconds = time.monotonic() - begun
            print(f"{run.counts['kills']} kills, {seconds:.0f} s", file=sys.stderr, flush=True)
    for fault in run.faults:
        print(fault, file=sys.stderr)
    if run.faults:
        print(f"again: --seed {args.seed} --only {number - 1}", file=sys.stderr)
    figures = {
        "seed": args.seed,
        "kills": run.counts["kills"],
        "random": run.counts["at a random moment"],
        **{name: run.counts[count] for name, count in (also or {}).items()},
        "places": len(run.places),
        "places_killed_at": sum(count > 0 for count in run.places.values()),
        "acknowledged": run.counts["acknowledged"],
        "seconds": round(time.monotonic() - begun, 1),
        "faults": len(run.faults),
    }
    if args.json:
        not_killed_at = sorted(name for name, count in run.places.items() if not count)
        print(json.dumps({**figures, "not_killed_at": not_killed_at}))
    else:
        for what, value in figures.items():
            print(f"{what:18} {value}")
    return bool(run.faults)
