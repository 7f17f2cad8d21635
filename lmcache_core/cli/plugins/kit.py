"""Running the conformance kit against what is installed, in a pytest of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

from lmcache_core.api import (
    EvictionPolicySpec,
    PluginSpec,
    SerdeSpec,
    StorageBackendSpec,
    TransportSpec,
)
from lmcache_core.cli.plugins.outcome import Outcome
from lmcache_core.errors import DeadlineExceededError, LMCacheError

HAS_KIT: tuple[type[PluginSpec[Any]], ...] = (
    StorageBackendSpec,
    SerdeSpec,
    EvictionPolicySpec,
    TransportSpec,
)

NEEDED = ("pytest", "hypothesis")
_PYTEST = (
    *("-P", "-m", "pytest", "-q", "--import-mode=importlib", "--tb=short"),
    *("-p", "no:cacheprovider", "-p", "lmcache_core.testing.pytest_plugin"),
)
_APART = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
"""Other plugins and options of pytest that happen to be here have no say in it."""

_PREAMBLE = "from lmcache_core.testing.installed import kit_of\n\n"


class Subject(NamedTuple):
    """What a kit is run against.

    Attributes:
        spec: The thing offered.
        options: Its section of the configuration.
    """

    spec: PluginSpec[Any]
    options: Mapping[str, Any]


def require_kit() -> None:
    """Say what to install where the kit cannot run.

    Raises:
        LMCacheError: pytest or hypothesis is missing.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise LMCacheError(
            f"the conformance kit needs {' and '.join(missing)}, which is not installed here; "
            "install it with `pip install 'lmcache-core[testing]'`"
        )


def run_kits(
    subjects: Sequence[Subject], timeout_seconds: float, only: str | None = None
) -> list[Outcome]:
    """Run the kit of each subject.

    Args:
        subjects: What to check.
        timeout_seconds: For all of them together.
        only: Which checks to run, as pytest's ``-k`` has it; all by default.

    Raises:
        DeadlineExceededError: They were not done in time.
        LMCacheError: pytest could not run them, or no check is meant by ``only``.
    """
    lines = [
        f"Test{number} = kit_of({spec.kind!r}, {spec.name!r}, {dict(options)!r})"
        for number, (spec, options) in enumerate(subjects)
    ]
    with tempfile.TemporaryDirectory(prefix="lmcache-check-") as name:
        folder = Path(name)
        (folder / "test_installed.py").write_text(_PREAMBLE + "\n".join(lines) + "\n")
        (folder / "pytest.ini").write_text("[pytest]\n")
        output = _run(folder, timeout_seconds, only)
        report = folder / "report.xml"
        found = list(_outcomes(report, subjects)) if report.exists() else []
    if not found and only:
        raise LMCacheError(f"no check of the kit is meant by --only {only!r}: {output.strip()}")
    if not found:
        raise LMCacheError(f"pytest could not run the kit: {output.strip()[-2000:]}")
    return found


def _run(folder: Path, timeout_seconds: float, only: str | None) -> str:
    command = [
        *(
            sys.executable,
            *_PYTEST,
            f"--config-file={folder / 'pytest.ini'}",
            f"--rootdir={folder}",
        ),
        *(f"--basetemp={folder / 'tmp'}", f"--junitxml={folder / 'report.xml'}"),
        *(("-k", only) if only else ()),
        str(folder / "test_installed.py"),
    ]
    try:
        done = subprocess.run(  # noqa: S603 - of the kit and of what is installed here
            command,
            env={**os.environ, **_APART, "HYPOTHESIS_STORAGE_DIRECTORY": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=timeout_seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise DeadlineExceededError("the conformance kit", timeout_seconds) from error
    return done.stdout


def _outcomes(report: Path, subjects: Sequence[Subject]) -> Iterator[Outcome]:
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest wrote it just now
        number = re.search(r"\.Test(\d+)$", case.get("classname", ""))
        if number is None:
            continue
        result, reason = "passed", ""
        for what in case:
            if what.tag == "skipped":
                result, reason = "skipped", what.get("message", "")
            elif what.tag in ("failure", "error"):
                result, reason = "failed", what.get("message", "")
                break
        yield Outcome(
            of=subjects[int(number[1])].spec.name,
            check=case.get("name", "").removeprefix("test_"),
            result=result,  # type: ignore[arg-type] # one of the three above
            reason=reason,
            seconds=float(case.get("time", 0)),
        )
