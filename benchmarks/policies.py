"""What a call of each eviction policy costs, with few keys and with many.

    python benchmarks/policies.py [--keys 1000 1000000] [--json]

Half of the keys are held, as by pins. ``turn_us`` is what a full tier does
for each new entry: name a victim, evict it, admit another, touch one.
``ratio`` is the time of the most keys over that of the fewest.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from lmcache_core.api import EvictionPolicy, EvictionPolicySpec
from lmcache_core.plugins import PluginRegistry

TURNS = 20_000
ROUNDS = 3


def measure(make: Callable[[], EvictionPolicy], n: int) -> dict[str, float]:
    """Microseconds of each kind of call with ``n`` keys."""
    policy = make()
    # Keys are digests, and policies may go by that.
    names = (hashlib.sha256(number.to_bytes(8)).digest() for number in itertools.count())
    keys = list(itertools.islice(names, n))
    for key in keys:
        policy.admit(key)
    hold = _each(policy.hold, keys[::2])
    turns = [_turns(policy, keys, names) for _ in range(ROUNDS)]
    release = _each(policy.release, keys[::2])
    return {"hold_us": hold, "turn_us": statistics.median(turns), "release_us": release}


def _turns(policy: EvictionPolicy, keys: list[bytes], names: Iterator[bytes]) -> float:
    touched = [keys[int.from_bytes(os.urandom(4)) % len(keys)] for _ in range(TURNS)]
    admitted = list(itertools.islice(names, TURNS))
    started = time.perf_counter()
    for touch, fresh in zip(touched, admitted, strict=True):
        victim = policy.victim()
        if victim is not None:
            policy.evict(victim)
        policy.admit(fresh)
        policy.touch(touch)
    return (time.perf_counter() - started) / TURNS * 1e6


def _each(call: Callable[[bytes], None], keys: list[bytes]) -> float:
    started = time.perf_counter()
    for key in keys:
        call(key)
    return (time.perf_counter() - started) / len(keys) * 1e6


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, nargs="+", default=[1_000, 1_000_000])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    for spec in PluginRegistry.discover({}).specs(EvictionPolicySpec):
        make = spec.load()
        rows = {n: measure(partial(make, spec.config()), n) for n in sorted(args.keys)}
        few, many = rows[min(rows)], rows[max(rows)]
        figures[spec.name] = {
            **{f"{name} at {n}": value for n, row in rows.items() for name, value in row.items()},
            **{f"ratio of {name}": many[name] / few[name] for name in many},
        }
    print(json.dumps(figures, indent=None if args.json else 2))


if __name__ == "__main__":
    main()
