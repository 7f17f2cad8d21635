"""The reference storage backend: a dictionary behind the whole contract."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from lmcache_core.api import (
    BackendContext,
    Capability,
    Deadline,
    PutStatus,
    StorageBackend,
    StoreUsage,
)
from lmcache_core.keys import Key


class DictConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a ``DictBackend`` is configured with.

    Attributes:
        max_bytes: Bound of all frames together; None for no bound.
    """

    max_bytes: Annotated[
        Annotated[int, Meta(gt=0)] | None, Meta(description="Bound of all frames together.")
    ] = None


class DictStore:
    """The bytes themselves, apart from the backend, so that two can share them.

    Args:
        max_bytes: Bound of all frames together; None for no bound.

    Attributes:
        lock: Held while ``frames`` is read or changed.
        frames: Frames by key, in the order of arrival.
        used_bytes: Bytes of all frames.
        max_bytes: The bound.
        store_id: Names the bytes.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self.lock = threading.Lock()
        self.frames: dict[Key, bytes] = {}
        self.used_bytes = 0
        self.max_bytes = max_bytes
        self.store_id = f"dict:{uuid.uuid4()}"


class DictBackend(StorageBackend):
    """Keeps frames in a dictionary of this process.

    What a new backend can be compared with, and the shortest one to copy.

    Args:
        config: Its section.
        context: Where it is used.
        store: The bytes; its own by default.

    Attributes:
        capabilities: What its spec declares.
    """

    capabilities = Capability.SCAN | Capability.USAGE | Capability.REPLACE

    def __init__(
        self, config: DictConfig, context: BackendContext, store: DictStore | None = None
    ) -> None:
        del context  # a dictionary is the same for every tier
        self._store = DictStore(config.max_bytes) if store is None else store

    @property
    def store_id(self) -> str:
        """A name made with the store."""
        return self._store.store_id

    def open(self) -> None:
        """Nothing to do: the dictionary is there."""

    def stat(self, keys: Sequence[Key], deadline: Deadline) -> list[int | None]:
        """Tell the length of each frame."""
        del deadline  # nothing here waits
        with self._store.lock:
            found = [self._store.frames.get(key) for key in keys]
        return [None if frame is None else len(frame) for frame in found]

    def put(
        self, keys: Sequence[Key], frames: Sequence[memoryview], deadline: Deadline
    ) -> list[PutStatus]:
        """Copy each frame in whole, or not at all."""
        del deadline
        return [self._put(key, frame) for key, frame in zip(keys, frames, strict=True)]

    def get(
        self, keys: Sequence[Key], buffers: Sequence[memoryview], deadline: Deadline
    ) -> list[int | None]:
        """Copy each frame out."""
        del deadline
        with self._store.lock:
            found = [self._store.frames.get(key) for key in keys]
        lengths: list[int | None] = []
        for frame, buffer in zip(found, buffers, strict=True):
            if frame is None or len(frame) > buffer.nbytes:
                lengths.append(None)
                continue
            buffer[: len(frame)] = frame
            lengths.append(len(frame))
        return lengths

    def remove(self, keys: Sequence[Key], deadline: Deadline) -> list[bool]:
        """Drop each frame."""
        del deadline
        return [self._remove(key) for key in keys]

    def replace(
        self, keys: Sequence[Key], frames: Sequence[memoryview], deadline: Deadline
    ) -> list[bool]:
        """Copy each frame over the one that is there."""
        del deadline
        return [self._replace(key, frame) for key, frame in zip(keys, frames, strict=True)]

    def close(self) -> None:
        """Let go of the store; the bytes go with the last backend that has it."""

    def scan(self) -> Iterator[tuple[Key, int]]:
        """Yield what was there when the scan began."""
        with self._store.lock:
            found = [(key, len(frame)) for key, frame in self._store.frames.items()]
        yield from found

    def usage(self) -> StoreUsage:
        """Tell what the dictionary holds."""
        with self._store.lock:
            return StoreUsage(self._store.used_bytes, len(self._store.frames))

    def _put(self, key: Key, frame: memoryview) -> PutStatus:
        store = self._store
        with store.lock:
            if key in store.frames:
                return PutStatus.PRESENT
            if store.max_bytes is not None and store.used_bytes + frame.nbytes > store.max_bytes:
                return PutStatus.FULL
            store.frames[key] = bytes(frame)
            store.used_bytes += frame.nbytes
            return PutStatus.STORED

    def _replace(self, key: Key, frame: memoryview) -> bool:
        store = self._store
        with store.lock:
            old = store.frames.get(key)
            if old is None:
                return False
            used_bytes = store.used_bytes + frame.nbytes - len(old)
            if store.max_bytes is not None and used_bytes > store.max_bytes:
                return False
            store.frames[key] = bytes(frame)
            store.used_bytes = used_bytes
            return True

    def _remove(self, key: Key) -> bool:
        store = self._store
        with store.lock:
            frame = store.frames.pop(key, None)
            if frame is None:
                return False
            store.used_bytes -= len(frame)
            return True
