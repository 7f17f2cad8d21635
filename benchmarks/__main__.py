"""Every benchmark, one after the other, each as ratios within its own run.

    python -m benchmarks [--peer-python PATH] [--quick] [NAME ...]

``--peer-python`` names the interpreter of an environment that has ``lmcache``;
without it the sides of the peer are left out. A benchmark that fails does not
keep the others from running.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

# What each is called with, in full and in a hurry.
ALL: dict[str, tuple[list[str], list[str]]] = {
    "mover": ([], []),
    "transfer": ([], ["--rounds", "5"]),
    "disk": ([], ["--rounds", "2"]),
    "disk_start": ([], ["--files", "20000", "--rounds", "3"]),
    "objects": ([], ["--rounds", "3", "--mib", "1", "32"]),
    "engine": ([], ["--chunks", "1000", "100000"]),
    "holds": ([], ["--chunks", "100000"]),
    "policies": ([], ["--keys", "1000", "100000"]),
    "serdes": ([], ["--rounds", "3"]),
    "redis_store": ([], ["--rounds", "4"]),
    "discovery": ([], ["--rounds", "5"]),
    "controller": ([], []),
    "pin_durable": ([], ["--rounds", "2", "--seconds", "0.5"]),
    "pin_cost": ([], ["--rounds", "2", "--seconds", "1"]),
    "step_time": ([], ["--rounds", "5", "--fill", "20000"]),
}


def run(name: str, *, quick: bool, peer_python: str | None) -> Any:
    """Run one benchmark; its figures, or None where it failed."""
    full, hurried = ALL[name]
    command = [sys.executable, str(HERE / f"{name}.py"), "--json", *(hurried if quick else full)]
    if peer_python and name == "transfer":
        command += ["--peer-python", peer_python]
    print(f"$ python benchmarks/{name}.py {' '.join(command[2:])}", flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(f"{name} failed with exit code {done.returncode}", flush=True)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def show(figures: Any, indent: str = "  ") -> None:
    """Print figures, one a line."""
    for row in figures if isinstance(figures, list) else [figures]:
        for name, value in row.items():
            if isinstance(value, dict | list):
                print(f"{indent}{name}")
                show(value, indent + "  ")
            else:
                text = f"{value:.3g}" if isinstance(value, float) else value
                print(f"{indent}{name:32} {text}")


def main() -> int:
    """Run from the command line; returns the number of benchmarks that failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)}")
    parser.add_argument("--peer-python")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    unknown = set(args.names) - set(ALL)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
    failed = 0
    for name in args.names or ALL:
        figures = run(name, quick=args.quick, peer_python=args.peer_python)
        if figures is None:
            failed += 1
        else:
            show(figures)
    return failed


if __name__ == "__main__":
    sys.exit(main())
