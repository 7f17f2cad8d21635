"""What the host hands to a backend when it makes one."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor

import msgspec
from structlog.stdlib import BoundLogger

from lmcache_core.api.host import CallerExecutor, KeyEvents, MetricSink, NoEvents, NoMetrics
from lmcache_core.log import get_logger


class BackendContext(msgspec.Struct, frozen=True, kw_only=True):
    """The place a backend is used in, and what it can use of its host.

    A tier fills in all of it. Without one, as in a test, there are stand-ins
    that do as little as possible.

    Attributes:
        instance_id: Id of the engine that owns the tier.
        tier: The tier's name, which is what the wire calls a location.
        clock: Monotonic seconds, the host's.
        logger: A structured logger that knows the tier and the instance.
        metrics: Takes the backend's own numbers.
        executor: Threads for what a call does side by side, a bounded number
            with a bounded queue; ``submit`` raises ``BackendError`` where
            too much waits. The tier owns it and closes it after the backend;
            what is submitted has to keep the call's deadline like the call.
        events: Takes what came and went by itself.
    """

    instance_id: str
    tier: str
    clock: Callable[[], float] = time.monotonic
    logger: BoundLogger = msgspec.field(default_factory=lambda: get_logger("backend"))
    metrics: MetricSink = msgspec.field(default_factory=NoMetrics)
    executor: Executor = msgspec.field(default_factory=CallerExecutor)
    events: KeyEvents = msgspec.field(default_factory=NoEvents)
