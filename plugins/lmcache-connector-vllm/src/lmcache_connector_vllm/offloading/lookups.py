"""Whether a block can be had, answered without waiting."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection

from vllm.v1.kv_offload.base import LookupResult

from lmcache_core.engine import BlockStore
from lmcache_core.keys import Key


class Lookups:
    """Answers from the tier's index, and asks a shared store for what is not in it.

    All methods are called by the thread that schedules.

    Args:
        store: The store.
        wait_seconds: How long a request waits for an answer.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        store: BlockStore,
        wait_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._collected: list[Key] = []
        self._due: dict[Key, float] = {}
        self._asked: defaultdict[str, set[Key]] = defaultdict(set)
        self._failed: defaultdict[str, set[Key]] = defaultdict(set)

    def look(self, key: Key, request: str) -> LookupResult:
        """Whether a block can be had for a request; RETRY where that is being asked."""
        store = self._store
        with store.changed:
            if key in store.tier.residents:
                if key in self._failed[request] or not self._usable(key):
                    return LookupResult.MISS
                return LookupResult.HIT
            if not store.tier.shared:
                return LookupResult.MISS
            due = self._due.get(key)
            if due is not None:
                if self._clock() < due:
                    return LookupResult.RETRY
                # Nobody else waits for this answer as well.
                del self._due[key]
                store.tier.breaker.failed()
                return LookupResult.MISS
        if key in self._asked[request]:
            return LookupResult.MISS
        self._asked[request].add(key)
        self._due[key] = self._clock() + self._wait_seconds
        self._collected.append(key)
        return LookupResult.RETRY

    def flush(self) -> None:
        """Ask for all that was looked for in this step, in one call of the store."""
        keys, self._collected = self._collected, []
        if not keys:
            return

        def answered() -> None:
            for key in keys:
                self._due.pop(key, None)

        tier = self._store.tier
        with self._store.changed:
            if not (tier.breaker.allows() and tier.ask(keys, answered)):
                answered()

    def refuse(self, request: str, keys: Collection[Key]) -> None:
        """Offer a request no more what could not be loaded for it."""
        self._failed[request].update(keys)

    def forget(self, request: str) -> None:
        """A request is over."""
        self._asked.pop(request, None)
        self._failed.pop(request, None)

    def _usable(self, key: Key) -> bool:
        """Whether the store answers; one that did not is asked for something small first."""
        tier = self._store.tier
        if tier.breaker.healthy:
            return True
        if tier.breaker.allows():
            tier.ask([key], lambda: None)
        return False
