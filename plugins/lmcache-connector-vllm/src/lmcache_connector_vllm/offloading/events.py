"""What this instance has put into a store, told to vLLM's routers."""

from __future__ import annotations

from collections.abc import Collection

from vllm.v1.kv_offload.base import Locality, Medium, OffloadingEvent, OffloadKey

from lmcache_core.keys import Key


class Announcements:
    """Remembers what vLLM calls the blocks that are there.

    Methods are called with the store's lock held. What an earlier process has
    stored has no name here and is not announced until it is stored again.

    Args:
        wanted: Whether vLLM publishes events; otherwise nothing is kept.
        medium: What vLLM calls the store.
        locality: Where it is.
    """

    def __init__(self, *, wanted: bool, medium: Medium, locality: Locality | None) -> None:
        self._wanted = wanted
        self._medium = medium
        self._locality = locality
        self._arriving: dict[Key, OffloadKey] = {}
        self._there: dict[Key, OffloadKey] = {}
        self._events: list[OffloadingEvent] = []

    def expect(self, keys: Collection[Key], offload_keys: Collection[OffloadKey]) -> None:
        """Blocks are about to be stored."""
        if self._wanted:
            self._arriving.update(zip(keys, offload_keys, strict=True))

    def no_longer(self, keys: Collection[Key]) -> None:
        """A job of these blocks is over."""
        for key in keys:
            self._arriving.pop(key, None)

    def admitted(self, key: Key) -> None:
        """A block is there."""
        offload_key = self._arriving.pop(key, None)
        if offload_key is not None:
            self._there[key] = offload_key
            self._note(offload_key, removed=False)

    def evicted(self, key: Key) -> None:
        """A block is there no longer."""
        offload_key = self._there.pop(key, None)
        if offload_key is not None:
            self._note(offload_key, removed=True)

    def take(self) -> list[OffloadingEvent]:
        """What has happened since this was last asked."""
        events, self._events = self._events, []
        return events

    def _note(self, offload_key: OffloadKey, *, removed: bool) -> None:
        last = self._events[-1] if self._events else None
        if last is not None and last.removed == removed:
            last.keys.append(offload_key)
            return
        self._events.append(
            OffloadingEvent(
                keys=[offload_key],
                medium=self._medium,
                removed=removed,
                locality=self._locality,
                removal_expected=True,
            )
        )
