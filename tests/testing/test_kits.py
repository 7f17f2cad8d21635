"""Each kit is tested with implementations that are good, and broken in one way each."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import pytest

from lmcache_core.testing import (
    ControllerTransportTests,
    EvictionPolicyTests,
    SerdeTests,
    StorageBackendTests,
    conformance,
    transport_ends,
)

pytest_plugins = ["pytester"]

KITS = {
    "broken_backends": StorageBackendTests,
    "broken_policies": EvictionPolicyTests,
    "broken_serdes": SerdeTests,
    "broken_transports": ControllerTransportTests,
}
MACHINE = "test_any_order_of_calls_agrees_with_a_dictionary"


def load(name: str) -> ModuleType:
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"{name}_listed", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def failures(pytester: pytest.Pytester, name: str, *options: str) -> dict[str, set[str]]:
    """Run the suites of a module; tell what failed, by suite, and of each that ran."""
    pytester.makepyfile(test_broken=Path(__file__).with_name(f"{name}.py").read_text())
    run = pytester.inline_run("-q", "--tb=no", *options)
    failed: dict[str, set[str]] = defaultdict(set)
    for report in run.getreports("pytest_runtest_logreport"):
        _, suite, check = report.nodeid.split("::")
        failed[suite] |= set()
        if report.failed:
            failed[suite].add(check if report.when == "call" else f"{report.when} of {check}")
    return dict(failed)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is broken so that it waits for ever waits a second here."""
    monkeypatch.setattr(transport_ends, "PATIENCE_SECONDS", 1.0)
    # Halves the time of 3000 checks.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "lmcache_core.testing.pytest_plugin")


@pytest.mark.parametrize("name", KITS)
def test_every_check_has_its_broken_implementation(name: str) -> None:
    assert sorted(load(name).BROKEN.values()) == sorted(KITS[name].CHECKS)


@pytest.mark.slow
@pytest.mark.parametrize("name", KITS)
def test_each_broken_implementation_fails_its_check_alone(
    name: str, pytester: pytest.Pytester
) -> None:
    module = load(name)
    # The machine makes a failure small, which takes its time, and has its own test.
    failed = failures(pytester, name, "-k", f"not {MACHINE}")
    also = {getattr(module, "SUMMARY", "")}
    for suite, check in module.BROKEN.items():
        if check != MACHINE:
            assert check in failed[suite], f"{suite} does not fail {check}"
            assert failed[suite] <= {check} | also
    assert not any(failed[suite] for suite in failed.keys() - module.BROKEN.keys())
    assert set(failed) == {name for name in vars(module) if name.startswith("Test")}


def test_the_machine_finds_what_takes_several_calls(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It always tries the same orders; on a busy machine the usual time is too short for them.
    monkeypatch.setattr(StorageBackendTests, "MACHINE_SECONDS", 60.0)
    module = load("broken_backends")
    (suite,) = [suite for suite, check in module.BROKEN.items() if check == MACHINE]
    failed = failures(pytester, "broken_backends", "-k", f"{suite} or (TestGood and {MACHINE})")
    assert failed == {"TestGood": set(), suite: {MACHINE}}


@pytest.mark.timeout(0)  # The kit leaves a hang to the timer of whoever has set one.
def test_what_hangs_fails(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "CHECK_SECONDS", 0.2)
    pytester.makepyfile(
        """
        import threading
        from lmcache_core.testing import SerdeTests
        class TestMine(SerdeTests):
            def test_of_my_own(self):
                threading.Event().wait()
        """
    )
    result = pytester.runpytest_inprocess("-q", "-k", "test_of_my_own")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the check did not end within 0.2 s*"])
