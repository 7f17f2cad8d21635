"""What a tier does for the backend under it, and what stands in for it without a tier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

from lmcache_core.keys import Key

P = ParamSpec("P")
T = TypeVar("T")


class MetricSink(ABC):
    """Numbers of a backend's own, shown where those of its tier are.

    *Guaranteed*: thread-safe, a microsecond a call.

    *Must*, for every name: lower-case letters, digits and underscores, a
    letter first; of a fixed set of a few dozen, never made of a key or an
    address. A tier takes 64 names and drops what comes beyond.
    """

    @abstractmethod
    def count(self, name: str, amount: int = 1) -> None:
        """Add to a total that never falls.

        Raises:
            ValueError: The name is none, or the amount is below zero.
        """

    @abstractmethod
    def gauge(self, name: str, value: int) -> None:
        """Set a number that rises and falls.

        Raises:
            ValueError: The name is none.
        """

    @abstractmethod
    def observe(self, name: str, seconds: float) -> None:
        """Note how long something took; shown as a count and a sum.

        Raises:
            ValueError: The name is none, or the time is below zero.
        """


class KeyEvents(ABC):
    """Tells a tier what came and went in a store without its doing.

    For a store that evicts by itself, that others write to, or that can
    watch its keys: the tier's index is right sooner. It is a hint; the tier
    goes on verifying whatever it reads, and finds out by itself what it is
    not told.

    *Guaranteed*: thread-safe, never raises; waits for the engine's lock, so
    that many keys cost one call less than one call each.
    """

    @abstractmethod
    def came(self, frames: Sequence[tuple[Key, int]]) -> None:
        """Say that frames are there: the key and the length in bytes of each."""

    @abstractmethod
    def gone(self, keys: Sequence[Key]) -> None:
        """Say that frames are no longer there."""


class NoMetrics(MetricSink):
    """Shows nothing anywhere."""

    def count(self, name: str, amount: int = 1) -> None:
        """Do nothing."""

    def gauge(self, name: str, value: int) -> None:
        """Do nothing."""

    def observe(self, name: str, seconds: float) -> None:
        """Do nothing."""


class NoEvents(KeyEvents):
    """Tells nobody."""

    def came(self, frames: Sequence[tuple[Key, int]]) -> None:
        """Do nothing."""

    def gone(self, keys: Sequence[Key]) -> None:
        """Do nothing."""


class CallerExecutor(Executor):
    """Runs everything at once on the thread that submits it."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run it, and return what has come of it."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - a future carries it; an interrupt is the caller's own
            future.set_exception(error)
        return future
