"""``zstd``: one Zstandard frame for each payload."""

from __future__ import annotations

import threading

import zstandard

from lmcache_core.api import Serde
from lmcache_core.errors import SerdeError
from lmcache_core.keys import Key
from lmcache_serde_zstd.config import ZstdConfig
from lmcache_serde_zstd.layout import check_layout


class ZstdSerde(Serde):
    """Compresses payloads without loss.

    The encoded bytes are one Zstandard frame (RFC 8878) that says how long
    the payload is and ends in its checksum, so any Zstandard can read it.
    Contexts are kept for each thread, as none may be used by two at once.

    Args:
        config: The level.
    """

    def __init__(self, config: ZstdConfig | None = None) -> None:
        self._level = (config or ZstdConfig()).level
        self._contexts = threading.local()

    @property
    def label(self) -> str:
        """The level."""
        return str(self._level)

    def encode(self, key: Key, payload: memoryview) -> bytes:
        """Compress a payload.

        Raises:
            SerdeError: The library cannot.
        """
        del key
        try:
            return self._compressor().compress(payload)
        except zstandard.ZstdError as error:
            raise SerdeError(
                f"{payload.nbytes} bytes cannot be compressed by zstd: {error}"
            ) from error

    def decode(self, key: Key, stored: memoryview, payload: memoryview) -> None:
        """Decompress into ``payload``, in one pass and with no buffer in between.

        Raises:
            SerdeError: The bytes are no frame of ours of just that length, or
                do not have its checksum.
        """
        del key
        try:
            check_layout(stored, payload.nbytes)
            # The whole frame and room for all of it are there: the library
            # then writes into the payload itself, and checks the checksum.
            with self._decompressor().stream_reader(stored) as reader:
                filled = reader.readinto(payload) if payload.nbytes else len(reader.read(1))
        except zstandard.ZstdError as error:
            raise SerdeError(f"{stored.nbytes} bytes are no frame of zstd: {error}") from error
        if filled != payload.nbytes:
            message = f"zstd made {filled} bytes of a frame of {payload.nbytes}"
            raise SerdeError(message)

    def close(self) -> None:
        """Let go of the contexts."""
        self._contexts = threading.local()

    def _compressor(self) -> zstandard.ZstdCompressor:
        compressor: zstandard.ZstdCompressor | None = getattr(self._contexts, "compressor", None)
        if compressor is None:
            compressor = self._contexts.compressor = zstandard.ZstdCompressor(
                level=self._level, write_checksum=True, write_content_size=True
            )
        return compressor

    def _decompressor(self) -> zstandard.ZstdDecompressor:
        context: zstandard.ZstdDecompressor | None = getattr(self._contexts, "decompressor", None)
        if context is None:
            context = self._contexts.decompressor = zstandard.ZstdDecompressor()
        return context
