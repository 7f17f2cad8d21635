"""Each method that a plugin has to write says what it can rely on and what it has to do."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from lmcache_core.api import BackendContext, EvictionPolicy, MemoryBackend, Serde, StorageBackend
from lmcache_core.api.connector import CacheFacade
from lmcache_core.api.host import KeyEvents, MetricSink
from lmcache_core.api.transport import ControllerListener, ControllerTransport, EngineLink
from lmcache_core.engine.storage.host import TierMetrics

PLUGINS_WRITE = (
    StorageBackend,
    MemoryBackend,
    Serde,
    EvictionPolicy,
    ControllerTransport,
    ControllerListener,
    EngineLink,
)
PLUGINS_CALL = (CacheFacade, MetricSink, KeyEvents)
PROMISE = re.compile(r"\*Guaranteed\*|\*Must\*|\*Must not\*|^Raises:", re.MULTILINE)


def public(contract: type) -> list[tuple[str, str]]:
    return [
        (name, inspect.getdoc(member) or "")
        for name, member in vars(contract).items()
        if not name.startswith("_") or name == "__len__"
        if callable(member) or isinstance(member, property)
    ]


@pytest.mark.parametrize("contract", [*PLUGINS_WRITE, *PLUGINS_CALL])
def test_every_method_is_described(contract: type) -> None:
    assert all(text for _, text in public(contract))


@pytest.mark.parametrize("contract", PLUGINS_WRITE)
def test_every_method_to_be_written_says_what_is_promised(contract: type) -> None:
    assert PROMISE.search(inspect.getdoc(contract) or ""), "of all methods together"
    silent = [name for name, text in public(contract) if not PROMISE.search(text)]
    assert silent == []


def test_everything_that_a_backend_is_handed_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/host-services.md").read_text()
    fields = set(BackendContext.__struct_fields__)
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == fields
    shown = re.findall(
        r'\| `(count|gauge|observe)\("(\w+)"(?:, ([\d.]+))?\)` \| (.*?) \| (.*?) \|', page
    )
    assert {call for call, *_ in shown} == {"count", "gauge", "observe"}
    metrics = TierMetrics("shelf")
    for call, name, value, *_ in shown:
        getattr(metrics, call)(name, *([float(value)] if value else []))
    named = [total for *_, totals, _ in shown for total in re.findall(r"`shelf\.(\w+)`", totals)]
    assert sorted(named) == sorted(metrics.totals())
