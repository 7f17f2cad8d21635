"""What every kit does, shown with that of storage backends."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from lmcache_core.testing import StorageBackendTests, faults

pytest_plugins = ["pytester"]

SOURCE = Path(__file__).with_name("broken_backends.py")

SUITE = """
import pytest
from lmcache_core.api import BackendContext, Capability
from lmcache_core.testing import DictBackend, DictConfig, StorageBackendTests

class TestMine(StorageBackendTests):
    {body}

    @pytest.fixture
    def make_backend(self):
        return lambda: DictBackend(DictConfig(), BackendContext(instance_id="i", tier="t"))
"""


def test_good_backends_with_every_capability_skip_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_broken=SOURCE.read_text())
    run = pytester.inline_run("-q", "test_broken.py::TestGood", "test_broken.py::TestSelfEvicting")
    passed, skipped, failed = run.listoutcomes()
    assert not failed
    ran = {report.nodeid.split("::")[-1] for report in passed}
    assert ran == set(StorageBackendTests.CHECKS)
    assert all(
        "evicts by itself" in str(r.longrepr) or "self_evicting" in str(r.longrepr) for r in skipped
    )


def test_a_check_cannot_be_replaced(pytester: pytest.Pytester) -> None:
    body = "def test_empty_batches(self): assert True"
    pytester.makepyfile(SUITE.format(body=body))
    result = pytester.runpytest_inprocess("-q")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*TestMine replaces the check test_empty_batches*"])


def test_a_check_cannot_be_replaced_by_a_mixin() -> None:
    class Mixin:
        test_empty_batches = None

    with pytest.raises(TypeError, match="replaces the check test_empty_batches"):
        type("Mine", (Mixin, StorageBackendTests), {})


def test_an_expected_failure_is_reported_as_one(pytester: pytest.Pytester) -> None:
    """The dictionary is not shared, so that a suite that says it is fails those checks."""
    expected = {
        name: "the dictionary is this backend's own"
        for name in StorageBackendTests.CHECKS
        if "engine" in name or "any_order" in name
    }
    body = f"EXPECTED_FAILURES = {expected!r}\n    capabilities = Capability.SHARED"
    pytester.makepyfile(SUITE.format(body=body))
    result = pytester.runpytest_inprocess("-q", "-rx")
    outcomes = result.parseoutcomes()
    assert outcomes["xfailed"] == len(expected)
    assert "failed" not in outcomes
    result.stdout.fnmatch_lines(["*the dictionary is this backend's own*"])


def test_an_expected_failure_that_passes_is_a_failure(pytester: pytest.Pytester) -> None:
    body = 'EXPECTED_FAILURES = {"test_empty_batches": "it was so once"}'
    pytester.makepyfile(SUITE.format(body=body))
    result = pytester.runpytest_inprocess("-q")
    assert result.parseoutcomes()["failed"] == 1
    result.stdout.fnmatch_lines(["*XPASS(strict)*it was so once*"])


@pytest.mark.parametrize(
    ("expected", "message"),
    [({"test_nothing": "why"}, "no check of"), ({"test_empty_batches": " "}, "no reason for")],
)
def test_an_expected_failure_names_a_check_and_a_reason(
    expected: dict[str, str], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        type("Mine", (StorageBackendTests,), {"EXPECTED_FAILURES": expected})


def test_an_undeclared_capability_skips_with_its_name(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE.format(body="capabilities = Capability.NONE"))
    result = pytester.runpytest_inprocess("-q", "-rs")
    result.stdout.fnmatch_lines(
        ["*capability scan is not declared*", "*capability durable is not declared*"]
    )
    assert "failed" not in result.parseoutcomes()


def test_a_declared_capability_makes_its_checks_obligatory(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE.format(body="capabilities = Capability.SYNC"))
    result = pytester.runpytest_inprocess("-q")
    assert result.parseoutcomes()["failed"] == 1
    result.stdout.fnmatch_lines(["*does not declare SYNC*"])


def test_a_suite_without_a_factory_is_told_so(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from lmcache_core.testing import StorageBackendTests, faults
        class TestMine(StorageBackendTests):
            pass
        """
    )
    result = pytester.runpytest_inprocess("-q", "-k", "test_empty_batches")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*supply the fixture make_backend*"])


def test_failed_checks_show_what_they_compared(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_broken=SOURCE.read_text())
    result = pytester.runpytest_subprocess("-q", "test_broken.py::TestTellsAllocatedBytes")
    result.stdout.fnmatch_lines(["E*assert 8192 == (4096 + 7)*"])


def shown() -> list[str]:
    page = (Path(__file__).parents[2] / "docs/reference/conformance-kit.md").read_text()
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


@pytest.mark.parametrize("number", range(4))
def test_each_suite_that_the_documentation_shows_runs(
    number: int, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile([text for text in shown() if "class Test" in text][number])
    outcomes = pytester.runpytest_inprocess("-q").parseoutcomes()
    assert set(outcomes) <= {"passed", "skipped", "xfailed"}
    assert outcomes["passed"] > 12


def test_what_else_the_documentation_shows_is_so() -> None:
    (expected,) = [text for text in shown() if "class Test" not in text]
    (name,) = ast.literal_eval(expected.partition("=")[2])
    assert name in StorageBackendTests.CHECKS
    page = (Path(__file__).parents[2] / "docs/reference/conformance-kit.md").read_text()
    named = set(re.findall(r"^\| `(\w+)\(\w*\)` \|", page, re.MULTILINE))
    kinds = [kind for kind in vars(faults).values() if isinstance(kind, type)]
    planted = {kind.__name__ for kind in kinds if issubclass(kind, faults.Fault)}
    assert named == planted - {"Fault"}


def test_a_run_leaves_nothing_behind(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE.format(body=""))
    pytester.runpytest_subprocess(
        "-q", "-k", "any_order", "-p", "no:cacheprovider"
    ).assert_outcomes(passed=1)
    assert [path.name for path in pytester.path.iterdir() if path.name.startswith(".")] == []
