"""What a storage tier does for its backend: threads, numbers, news of keys."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

from lmcache_core.api import BackendContext
from lmcache_core.api.host import KeyEvents, MetricSink
from lmcache_core.engine.frames.workers import Workers
from lmcache_core.engine.storage.holdings import Holdings, Known
from lmcache_core.engine.storage.records import TierRecords
from lmcache_core.errors import BackendError
from lmcache_core.keys import KEY_BYTES, Key
from lmcache_core.log import get_logger

log = get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 4
"""Of a backend's executor."""

MOST_METRICS = 64
"""Names that one backend may use."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class TierHost:
    """What one backend is handed, and what becomes of it.

    Args:
        instance_id: The engine's.
        tier: The tier's name.

    Attributes:
        context: For the backend's factory.
    """

    def __init__(self, instance_id: str, tier: str) -> None:
        self._metrics = TierMetrics(tier)
        self._executor = TierExecutor(tier)
        self._events = TierEvents()
        self.context = BackendContext(
            instance_id=instance_id,
            tier=tier,
            clock=time.monotonic,
            logger=get_logger("backend").bind(tier=tier, instance=instance_id),
            metrics=self._metrics,
            executor=self._executor,
            events=self._events,
        )

    def attach(self, holdings: Holdings, records: TierRecords | None) -> None:
        """Let news of keys reach the tier, now that there is one."""
        self._events.holdings = holdings
        self._events.records = records

    def totals(self) -> Mapping[str, int]:
        """The backend's own numbers, by name."""
        return self._metrics.totals()

    def close(self) -> bool:
        """End the threads; False where one of them is still busy."""
        self._events.holdings = None
        return self._executor.close()


class TierMetrics(MetricSink):
    """A backend's numbers as running totals beside its tier's.

    A counter ``x`` becomes ``backend_x``, a gauge ``backend_x_now``, a time
    ``backend_x_count`` and ``backend_x_microseconds``.

    Args:
        tier: The tier's name.
    """

    def __init__(self, tier: str) -> None:
        self._tier = tier
        self._lock = threading.Lock()
        self._totals: dict[str, int] = {}
        self._names: set[str] = set()

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a total."""
        if amount < 0:
            message = f"the total {name!r} never falls, and {amount} was to be added"
            raise ValueError(message)
        self._add(name, {f"backend_{name}": amount})

    def gauge(self, name: str, value: int) -> None:
        """Set a number."""
        with self._lock:
            if self._takes(name):
                self._totals[f"backend_{name}_now"] = int(value)

    def observe(self, name: str, seconds: float) -> None:
        """Note how long something took."""
        if seconds < 0:
            message = f"{name!r} cannot have taken {seconds} s"
            raise ValueError(message)
        took = round(seconds * 1e6)
        self._add(name, {f"backend_{name}_count": 1, f"backend_{name}_microseconds": took})

    def totals(self) -> Mapping[str, int]:
        """A copy of all of them."""
        with self._lock:
            return dict(self._totals)

    def _add(self, name: str, amounts: Mapping[str, int]) -> None:
        with self._lock:
            if self._takes(name):
                for total, amount in amounts.items():
                    self._totals[total] = self._totals.get(total, 0) + amount

    def _takes(self, name: str) -> bool:
        if name in self._names:
            return True
        if not _NAME.fullmatch(name):
            message = f"{name!r} is no name of a metric: lower-case letters, digits, underscores"
            raise ValueError(message)
        if len(self._names) >= MOST_METRICS:
            return False
        self._names.add(name)
        if len(self._names) == MOST_METRICS:
            log.warning("tier.metrics_full", tier=self._tier, names=MOST_METRICS)
        return True


class TierExecutor(Executor):
    """Threads that start with the first thing to do, and end with the tier.

    Args:
        tier: The tier's name.
    """

    def __init__(self, tier: str) -> None:
        self._tier = tier
        self._lock = threading.Lock()
        self._workers: Workers | None = None
        self._closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call.

        Raises:
            BackendError: Too much waits, or the tier has closed.
        """
        future: Future[T] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - a future carries whatever is raised
                future.set_exception(error)

        with self._lock:
            if self._closed:
                message = f"{self._tier} has closed and starts nothing more"
                raise BackendError(message)
            if self._workers is None:
                self._workers = Workers(f"lmcache-{self._tier}-backend", THREADS)
                self._workers.start()
            if not self._workers.submit(work):
                message = f"{self._tier}: too much waits for the backend's {THREADS} threads"
                raise BackendError(message)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT002
        """Do nothing: the threads are the tier's, which ends them."""

    def close(self) -> bool:
        """Finish what is queued, within a bound; False where a thread is still busy."""
        with self._lock:
            self._closed = True
            workers = self._workers
        return workers is None or workers.close()


class TierEvents(KeyEvents):
    """Keeps the tier's index in step with what a backend says.

    Attributes:
        holdings: The tier's state; None before there is a tier and after it.
        records: What the tier keeps beside the chunks, if it does.
    """

    def __init__(self) -> None:
        self.holdings: Holdings | None = None
        self.records: TierRecords | None = None

    def came(self, frames: Sequence[tuple[Key, int]]) -> None:
        """Account for frames that are there and were not."""
        holdings = self.holdings
        if holdings is None:
            return
        with holdings.lock:
            for key, nbytes in frames:
                known = key in holdings.residents or holdings.is_foreign(key)
                if len(key) == KEY_BYTES and nbytes > 0 and not known:
                    holdings.take(Known(key, nbytes, holdings.book.found))
                    holdings.counters["came_frames"] += 1

    def gone(self, keys: Sequence[Key]) -> None:
        """Account for frames that were there and are not."""
        holdings = self.holdings
        if holdings is None:
            return
        with holdings.lock:
            for key in keys:
                if key in holdings.residents:
                    holdings.forget(key)
                    holdings.counters["gone_frames"] += 1
        if self.records is not None:
            self.records.note_lost(keys)
