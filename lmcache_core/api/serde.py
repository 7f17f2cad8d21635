"""The contract of a serde: bytes to bytes, for one storage tier's frames."""

from __future__ import annotations

from abc import ABC, abstractmethod

from lmcache_core.keys import Key


class Serde(ABC):
    """Encodes a frame's payload on its way to a store and decodes it back."""

    @abstractmethod
    def encode(self, key: Key, payload: memoryview) -> bytes:
        """Return what is to be stored for ``payload``."""

    @abstractmethod
    def decode(self, key: Key, stored: memoryview, payload: memoryview) -> None:
        """Fill ``payload`` from what was stored.

        Raises:
            FrameError: The bytes are not what ``encode`` returned for this key.
        """
