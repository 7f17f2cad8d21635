"""The engine's totals on vLLM's ``/metrics``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.vllm


class Totals:
    """Running totals as an engine has them."""

    def __init__(self) -> None:
        self.now: dict[str, int] = {}

    def counters(self) -> dict[str, int]:
        return self.now


def test_intervals_are_increments_and_gauges_are_values() -> None:
    from lmcache_connector_vllm.stats import StatsReader

    totals: Any = Totals()
    reader = StatsReader(totals)
    totals.now = {"hit_tokens": 5, "stranded_bytes": 9, "no_room": 0}
    assert reader.take() is None, "nothing has happened that is worth reading for"
    reader.changed = True
    assert reader.take().data == {"hit_tokens": 5, "stranded_bytes": 9}
    totals.now = {"hit_tokens": 7, "stranded_bytes": 4, "no_room": 0}
    reader.changed = True
    assert reader.take().data == {"hit_tokens": 2, "stranded_bytes": 4}
    reader.changed = True
    assert reader.take() is None


def test_intervals_add_up_but_for_gauges() -> None:
    from lmcache_connector_vllm.stats import CacheStats

    first = CacheStats(data={"hit_tokens": 2, "stranded_bytes": 9})
    sum_ = first.aggregate(CacheStats(data={"hit_tokens": 3, "requests": 1, "stranded_bytes": 4}))
    assert sum_.reduce() == {"hit_tokens": 5, "requests": 1, "stranded_bytes": 4}
    sum_.reset()
    assert sum_.is_empty()


def test_every_engine_and_tier_has_its_own_series() -> None:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

    from lmcache_connector_vllm.stats import CachePromMetrics

    registry = CollectorRegistry()

    def into_registry(kind: Any) -> Any:
        return lambda **arguments: kind(registry=registry, **arguments)

    class Config:
        kv_transfer_config = None

    kinds: Any = {kind: into_registry(kind) for kind in (Counter, Gauge, Histogram)}
    metrics = CachePromMetrics(
        Config(), kinds, ["model_name", "engine"], {0: ["m", "0"], 1: ["m", "1"]}
    )
    metrics.observe({"hit_tokens": 3, "stranded_bytes": 9, "shelf.evictions": 2}, 1)
    metrics.observe({"hit_tokens": 3, "stranded_bytes": 0, "other.evictions": 1}, 1)
    metrics.observe({"shelf.backend_calls": 2, "shelf.backend_sockets_now": 5}, 1)
    metrics.observe({"shelf.backend_calls": 1, "shelf.backend_sockets_now": 3}, 1)
    text = generate_latest(registry).decode()
    assert 'vllm:lmcache_hit_tokens_total{engine="0",model_name="m"} 0.0' in text
    assert 'vllm:lmcache_hit_tokens_total{engine="1",model_name="m"} 6.0' in text
    assert 'vllm:lmcache_stranded_bytes{engine="1",model_name="m"} 0.0' in text
    assert (
        'vllm:lmcache_tier_evictions_total{engine="1",location="shelf",model_name="m"} 2.0' in text
    )
    of_shelf = '{engine="1",location="shelf",model_name="m"}'
    assert f"vllm:lmcache_tier_backend_calls_total{of_shelf} 3.0" in text
    assert f"vllm:lmcache_tier_backend_sockets_now{of_shelf} 3.0" in text


def test_every_metric_is_in_the_readme() -> None:
    from lmcache_connector_vllm.stats import DESCRIPTIONS, GAUGES

    readme = (Path(__file__).parents[1] / "README.md").read_text()
    for name in DESCRIPTIONS:
        suffix = "" if name in GAUGES else "_total"
        assert f"`vllm:lmcache_{name}{suffix}`" in readme
