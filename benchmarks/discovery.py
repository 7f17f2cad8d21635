"""What finding and loading ten plugins costs a process that starts.

    python benchmarks/discovery.py [--json] [--rounds N]

Ten distributions are written to a folder, each with a module and two hooks.
Each round is a process of its own that has imported the core already and
discovers once: with nothing else installed, and beside whatever is installed
where this runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path

PLUGINS = 10

SOURCE = """
from lmcache_core import hookimpl
from lmcache_core.api import EvictionPolicySpec, StorageBackendSpec

LMCACHE_PLUGIN_API = (0, 2)


@hookimpl
def lmcache_register_storage_backends():
    return [StorageBackendSpec(name="Shelf{number}", summary="a shelf", load=_load)]


@hookimpl
def lmcache_register_eviction_policies():
    return [EvictionPolicySpec(name="Clock{number}", summary="a clock", load=_load)]


def _load():
    return dict
"""

CHILD = """
import sys, time
from lmcache_core.plugins import PluginRegistry
folder, alone = sys.argv[1:]
if alone == "1":
    sys.path = [folder]
else:
    sys.path.insert(0, folder)
began = time.perf_counter()
registry = PluginRegistry.discover({})
seconds = time.perf_counter() - began
loaded = [r for r in registry.records if r.name.startswith("bench-") and r.status.value == "loaded"]
assert len(loaded) == 10, registry.records
print(seconds)
"""


def install(folder: Path) -> None:
    """Write the ten as pip would leave them."""
    for number in range(PLUGINS):
        name = f"lmcache_bench_plugin_{number}"
        (folder / f"{name}.py").write_text(SOURCE.format(number=number))
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n\n" + "A description.\n" * 200
        )
        (info / "entry_points.txt").write_text(f"[lmcache_core]\nbench-{number} = {name}\n")


def measure(folder: Path, rounds: int, *, alone: bool) -> list[float]:
    """Milliseconds of each round; one before them writes the compiled modules."""
    command = [sys.executable, "-c", CHILD, str(folder), str(int(alone))]
    took = []
    for _ in range(rounds + 1):
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        took.append(float(done.stdout) * 1e3)
    return took[1:]


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        install(folder)
        alone = measure(folder, args.rounds, alone=True)
        beside = measure(folder, args.rounds, alone=False)
    figures = {
        "plugins": PLUGINS,
        "alone_p50_ms": statistics.median(alone),
        "alone_best_ms": min(alone),
        "distributions": sum(1 for _ in distributions()),
        "beside_p50_ms": statistics.median(beside),
        "beside_best_ms": min(beside),
    }
    print(json.dumps(figures) if args.json else json.dumps(figures, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
