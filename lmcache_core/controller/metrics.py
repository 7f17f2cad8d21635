"""The controller's metrics, read from its parts when they are asked for.

Nothing is counted twice and nothing on the way of a request: parts keep plain
counters of their own. The names are a promise, see ``docs/reference/metrics.md``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import cast

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from lmcache_core import __version__
from lmcache_core.api.pins import PinState
from lmcache_core.controller.engine_record import EngineState
from lmcache_core.controller.plane import ControlPlane

CONTENT_TYPE = "text/plain; version=0.0.4"
"""Litestar adds the charset; Prometheus 3 takes no answer that names it twice."""


class Metrics(Collector):
    """One reading.

    Args:
        plane: What is read.
    """

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    def render(self) -> str:
        """The reading in Prometheus' text format."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry).decode()

    def collect(self) -> Iterator[Metric]:
        """All metrics, in a fixed order."""
        yield InfoMetricFamily(
            "lmcache_controller", "The controller's version.", value={"version": __version__}
        )
        yield GaugeMetricFamily(
            "lmcache_controller_start_time_seconds",
            "Unix time of its start.",
            value=self._plane.started_at,
        )
        yield from self._engines()
        yield from self._pins()
        yield from self._ledger()
        yield from self._link()
        yield from self._operations()

    def _engines(self) -> Iterator[Metric]:
        states = Counter(engine.state for engine in self._plane.directory)
        family = GaugeMetricFamily(
            "lmcache_controller_engines", "Engines known, by state.", labels=["state"]
        )
        for state in EngineState:
            family.add_metric([state.value], states[state])
        yield family
        labels = ["instance", "location"]
        names = {
            "used_bytes": "Bytes of all entries of a tier.",
            "pinned_bytes": "Bytes marked or reserved by pins in a tier.",
            "capacity_bytes": "Bound of a tier; 0 where the store has its own.",
            "entries": "Entries of a tier.",
            "healthy": "0 while a tier's breaker is open, or its store has not been opened.",
        }
        for field, text in names.items():
            family = GaugeMetricFamily(f"lmcache_controller_tier_{field}", text, labels=labels)
            for engine in self._plane.directory.live():
                for tier in engine.tiers:
                    value = float(getattr(tier, field))
                    family.add_metric([engine.instance_id, tier.location], value)
            yield family
        family = GaugeMetricFamily(
            "lmcache_controller_placement_keys", "Chunks known to be held.", labels=labels
        )
        for (instance_id, location), keys in sorted(self._plane.placement.keys().items()):
            family.add_metric([instance_id, location], keys)
        yield family

    def _pins(self) -> Iterator[Metric]:
        states = Counter(row.state for row in self._plane.ledger.rows())
        family = GaugeMetricFamily(
            "lmcache_controller_pins", "Pins in the ledger, by state.", labels=["state"]
        )
        for state in PinState:
            if state is not PinState.RELEASED:
                family.add_metric([state.value], states[state])
        yield family
        yield GaugeMetricFamily(
            "lmcache_controller_tombstones",
            "Pins whose release or end some engine has not acknowledged.",
            value=len(self._plane.ledger.tombstones),
        )

    def _ledger(self) -> Iterator[Metric]:
        journal = self._plane.journal
        summary = SummaryMetricFamily(
            "lmcache_controller_ledger_commit_seconds",
            "Commits of the ledger and the seconds they took.",
            count_value=journal.commits,
            sum_value=journal.seconds,
        )
        yield cast("Metric", summary)
        yield CounterMetricFamily(
            "lmcache_controller_ledger_failures",
            "Commits of the ledger that failed.",
            value=journal.failures,
        )
        yield GaugeMetricFamily(
            "lmcache_controller_ledger_healthy",
            "0 while the ledger cannot be written.",
            value=journal.failure is None,
        )

    def _link(self) -> Iterator[Metric]:
        stats = self._plane.listener.stats()
        texts = {
            "sent": "Messages sent to engines.",
            "received": "Messages received from engines.",
            "malformed": "Frames dropped because they could not be understood.",
            "dropped": "Messages to engines that were gone or whose queue was full.",
        }
        for field, text in texts.items():
            yield CounterMetricFamily(
                f"lmcache_controller_link_{field}", text, value=getattr(stats, field)
            )
        family = CounterMetricFamily(
            "lmcache_controller_messages", "Messages taken, by type.", labels=["type"]
        )
        for name, count in sorted(self._plane.reception.messages.items()):
            family.add_metric([name], count)
        yield family
        yield CounterMetricFamily(
            "lmcache_controller_event_gaps",
            "Gaps in the event sequence of some engine.",
            value=self._plane.placement.gaps,
        )

    def _operations(self) -> Iterator[Metric]:
        commands = self._plane.commands
        yield GaugeMetricFamily(
            "lmcache_controller_commands_open", "Commands under way.", value=commands.open
        )
        family = CounterMetricFamily(
            "lmcache_controller_commands",
            "Commands sent, by outcome.",
            labels=["command", "outcome"],
        )
        for (name, outcome), count in sorted(commands.outcomes.items()):
            family.add_metric([name, outcome], count)
        yield family
        jobs = self._plane.jobs
        summary = SummaryMetricFamily(
            "lmcache_controller_operation_seconds",
            "Operations of the routes and the seconds they took.",
            labels=["operation", "outcome"],
        )
        for (operation, outcome), count in sorted(jobs.outcomes.items()):
            seconds = jobs.seconds[operation, outcome]
            summary.add_metric([operation, outcome], count, seconds)
        yield cast("Metric", summary)
