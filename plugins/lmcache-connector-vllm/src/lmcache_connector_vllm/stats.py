"""The cache's counters on vLLM's own ``/metrics``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import (
    KVConnectorPromMetrics,
    KVConnectorStats,
)

from lmcache_core.api.connector import CacheFacade

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.distributed.kv_transfer.kv_connector.v1.metrics import PromMetric, PromMetricT

GAUGES = frozenset({"stranded_bytes"})
"""Totals of the engine that can fall."""

GAUGE_SUFFIX = "_now"
"""How the names of a backend's own totals end that can fall."""

DESCRIPTIONS = {
    "requests": "Requests that the cache was asked about.",
    "lookup_tokens": "Tokens that were looked up.",
    "hit_tokens": "Tokens that were found.",
    "loaded_tokens": "Tokens whose KV was loaded from the cache.",
    "stored_tokens": "Tokens whose KV was stored.",
    "stored_chunks": "Chunks that were stored.",
    "failed_jobs": "Copies that did not move all their pages.",
    "no_room": "Chunks not stored because everything else is pinned or in use.",
    "promoted_chunks": "Chunks brought up from below host memory.",
    "promotion_timeouts": "Requests that stopped waiting for a promotion.",
    "stranded_bytes": "Bytes of copies that are overdue.",
}


def is_gauge(name: str) -> bool:
    """Whether a total can fall."""
    return name in GAUGES or name.endswith(GAUGE_SUFFIX)


class CacheStats(KVConnectorStats):  # type: ignore[misc]
    """What was counted in an interval: increments of counters, values of gauges."""

    def reset(self) -> None:
        """Forget the interval."""
        self.data: dict[str, Any] = {}

    def is_empty(self) -> bool:
        """Whether nothing was counted."""
        return not self.data

    def aggregate(self, other: CacheStats) -> CacheStats:
        """Add a later interval to this one."""
        for name, value in other.data.items():
            self.data[name] = value if is_gauge(name) else self.data.get(name, 0) + value
        return self

    def reduce(self) -> dict[str, int | float]:
        """What vLLM's log line says of the interval."""
        return {name: value for name, value in sorted(self.data.items()) if value}


class StatsReader:
    """Turns the engine's running totals into intervals.

    Args:
        facade: The engine.

    Attributes:
        changed: Whether there is a reason to read again; idle steps have none.
    """

    def __init__(self, facade: CacheFacade) -> None:
        self._facade = facade
        self._seen: dict[str, int] = {}
        self.changed = False

    def take(self) -> CacheStats | None:
        """What has been counted since the last call, or None."""
        if not self.changed:
            return None
        self.changed = False
        totals = dict(self._facade.counters())
        seen, self._seen = self._seen, totals
        data = {
            name: total if is_gauge(name) else total - seen.get(name, 0)
            for name, total in totals.items()
            if total != seen.get(name, 0)
        }
        return CacheStats(data=data) if data else None


class CachePromMetrics(KVConnectorPromMetrics):  # type: ignore[misc]
    """Counters ``vllm:lmcache_NAME`` of each engine, in the API server's process.

    A counter of one tier, which the engine calls ``TIER.NAME``, becomes
    ``vllm:lmcache_tier_NAME`` with a label ``location``.
    """

    def __init__(
        self,
        vllm_config: VllmConfig,
        metric_types: dict[type[PromMetric], type[PromMetricT]],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        self._families: dict[str, Any] = {}
        self._children: dict[tuple[str, int], Any] = {}
        for engine in per_engine_labelvalues:
            for name in DESCRIPTIONS:
                self._child(name, engine)

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        """Add an interval of one engine."""
        for name, value in transfer_stats_data.items():
            child = self._child(name, engine_idx)
            if is_gauge(name):
                child.set(value)
            else:
                child.inc(value)

    def _child(self, name: str, engine: int) -> PromMetricT:
        child = self._children.get((name, engine))
        if child is None:
            location, _, short = name.rpartition(".")
            labels = [*self.per_engine_labelvalues[engine], *([location] if location else [])]
            child = self._family(short, name, tier=bool(location)).labels(*labels)
            self._children[name, engine] = child
        return child

    def _family(self, short: str, name: str, *, tier: bool) -> PromMetricT:
        metric = f"vllm:lmcache_{'tier_' if tier else ''}{short}"
        family = self._families.get(metric)
        if family is None:
            make = self._gauge_cls if is_gauge(name) else self._counter_cls
            family = self._families[metric] = make(
                name=metric,
                documentation=DESCRIPTIONS.get(short, f"{short} of a tier of the cache."),
                labelnames=[*self._labelnames, *(["location"] if tier else [])],
            )
        return family
