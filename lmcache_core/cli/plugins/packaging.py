"""Whether a plugin is packaged so that every host can load it, and quickly."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.resources import files
from types import FunctionType, ModuleType

from lmcache_core.cli.plugins.outcome import Outcome
from lmcache_core.plugins import PluginRecord, PluginStatus
from lmcache_core.plugins.registry import PROJECT

HEAVY = ("torch", "vllm", "numpy", "tensorflow", "jax")
"""What an entry-point module must not import: it is imported at every start."""

_IMPORT_SECONDS = 60
_IMPORT = """
import json, sys, time
import lmcache_core.api
before, began = set(sys.modules), time.perf_counter()
__import__(sys.argv[1])
milliseconds = (time.perf_counter() - began) * 1000
heavy = [name for name in sys.argv[2:] if name in sys.modules]
print(json.dumps([milliseconds, len(set(sys.modules) - before), heavy]))
"""


def check_packaging(record: PluginRecord) -> Iterator[Outcome]:
    """Check one plugin; what depends on its being loaded is left out where it is not."""
    if record.status is PluginStatus.LOADED:
        yield _passed(record, "it_is_loaded", f"plugin API {record.api}")
    else:
        yield _failed(record, "it_is_loaded", f"{record.status.value}: {record.reason}")
    if record.status in (PluginStatus.BLOCKED, PluginStatus.FAILED):
        return
    module = import_module(record.module.partition(":")[0])
    yield _hooks(record, module)
    yield _weight(record, module)
    yield _types(record, module)


def _hooks(record: PluginRecord, module: ModuleType) -> Outcome:
    """The registry finds registering hooks by name, notifications only by the mark."""
    unmarked = [
        name
        for name, value in vars(module).items()
        if name.startswith("lmcache_")
        and isinstance(value, FunctionType)
        and not hasattr(value, f"{PROJECT}_impl")
    ]
    check = "its_hooks_are_marked"
    if unmarked:
        return _failed(record, check, f"{', '.join(unmarked)}: put @hookimpl above")
    return _passed(record, check)


def _weight(record: PluginRecord, module: ModuleType) -> Outcome:
    """Import the module in a process of its own, after what the host has imported anyway."""
    check = "its_module_is_light"
    try:
        done = subprocess.run(  # noqa: S603 - an import of what this process has imported
            [sys.executable, "-c", _IMPORT, module.__name__, *HEAVY],
            capture_output=True,
            text=True,
            check=False,
            timeout=_IMPORT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return _failed(record, check, f"its import takes more than {_IMPORT_SECONDS} s")
    if done.returncode:
        what = done.stderr.strip().rpartition("\n")[2]
        return _failed(record, check, f"it cannot be imported alone: {what}")
    milliseconds, modules, heavy = json.loads(done.stdout.splitlines()[-1])
    if heavy:
        what = f"{module.__name__} imports {', '.join(heavy)}; import it where `load` is called"
        return _failed(record, check, what)
    return _passed(record, check, f"imported in {milliseconds:.1f} ms, {modules} modules")


def _types(record: PluginRecord, module: ModuleType) -> Outcome:
    check = "it_is_typed"
    package = import_module(module.__name__.partition(".")[0])
    if hasattr(package, "__path__") and files(package).joinpath("py.typed").is_file():
        return _passed(record, check)
    what = f"there is no file py.typed in {package.__name__}, so type checkers pass over it"
    return _failed(record, check, what)


def _passed(record: PluginRecord, check: str, seen: str = "") -> Outcome:
    return Outcome(of=record.name, check=check, result="passed", reason=seen)


def _failed(record: PluginRecord, check: str, reason: str) -> Outcome:
    return Outcome(of=record.name, check=check, result="failed", reason=reason)
