"""Which writing of a frame was read last, so that no other one is removed for its faults."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

from lmcache_backend_object_store.found import Version
from lmcache_core.keys import Key

_MOST = 4096


class Versions:
    """Remembers the versions of the frames read last, a few thousand of them.

    Verifying follows reading within milliseconds; what has been forgotten is
    taken to be unknown.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: OrderedDict[Key, Version] = OrderedDict()

    def note(self, key: Key, version: Version) -> None:
        """Remember what was read."""
        with self._lock:
            self._read[key] = version
            self._read.move_to_end(key)
            if len(self._read) > _MOST:
                self._read.popitem(last=False)

    def forget(self, keys: Iterable[Key]) -> None:
        """Forget what was read of frames that this engine now writes or removes itself."""
        with self._lock:
            for key in keys:
                self._read.pop(key, None)

    def take(self, key: Key) -> Version | None:
        """Tell what was read, and forget it."""
        with self._lock:
            return self._read.pop(key, None)
