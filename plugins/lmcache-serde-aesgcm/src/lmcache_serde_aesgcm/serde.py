"""``aesgcm``: AES-256-GCM, bound to the chunk's key."""

from __future__ import annotations

import mmap
import os
from contextlib import suppress

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lmcache_core.api import KVSpec, Serde
from lmcache_core.errors import SerdeError
from lmcache_core.keys import Key
from lmcache_core.log import get_logger
from lmcache_serde_aesgcm.config import AESGCMConfig
from lmcache_serde_aesgcm.envelope import NONCE_BYTES, TAG_BYTES, associated, opening_of, parse
from lmcache_serde_aesgcm.keys import read_key

log = get_logger(__name__)

MAPPED_BYTES = 64 << 10


class AESGCMSerde(Serde):
    """Encrypts payloads, and decrypts only what was encrypted for that chunk.

    Each payload has a nonce of its own, 96 random bits. The key's id stands
    before it and is authenticated, as is the chunk's key.

    Args:
        config: Where the keys are.
    """

    def __init__(self, config: AESGCMConfig) -> None:
        self._config = config
        self._opening = opening_of(config.encrypting)
        self._ciphers: dict[str, AESGCM] = {}

    @property
    def label(self) -> str:
        """Id of the key that encrypts."""
        return self._config.encrypting

    def accept(self, spec: KVSpec) -> None:
        """Read the keys; any payload will do.

        Raises:
            ConfigError: A key is not there or is none.
        """
        del spec
        self._ciphers = {
            key_id: AESGCM(read_key(key_id, source)) for key_id, source in self._config.keys.items()
        }
        log.info("keys.read", key_ids=list(self._ciphers), encrypt_with=self._config.encrypting)

    def encode(self, key: Key, payload: memoryview) -> memoryview:
        """Encrypt a payload.

        Raises:
            SerdeError: It is longer than AES-GCM can do at once.
        """
        nonce = os.urandom(NONCE_BYTES)
        opening = self._opening
        begin = len(opening) + NONCE_BYTES
        stored = _new_buffer(begin + payload.nbytes + TAG_BYTES)
        stored[: len(opening)] = opening
        stored[len(opening) : begin] = nonce
        cipher = self._ciphers[self._config.encrypting]
        try:
            cipher.encrypt_into(nonce, payload, associated(opening, key), stored[begin:])
        except OverflowError as error:
            raise SerdeError(f"{payload.nbytes} bytes cannot be encrypted: {error}") from error
        return stored

    def decode(self, key: Key, stored: memoryview, payload: memoryview) -> None:
        """Decrypt into ``payload``.

        Raises:
            SerdeError: The key is not configured, or the bytes, the key's id
                or the chunk's key are not those that were encrypted.
        """
        envelope = parse(stored)
        cipher = self._ciphers.get(envelope.key_id)
        if cipher is None:
            raise SerdeError(
                f"the payload is encrypted with key {envelope.key_id!r}; configured are "
                f"{', '.join(self._ciphers)}"
            )
        sealed = envelope.sealed
        if sealed.nbytes != payload.nbytes + TAG_BYTES:
            raise SerdeError(
                f"{sealed.nbytes - TAG_BYTES} bytes are encrypted, and {payload.nbytes} are wanted"
            )
        try:
            cipher.decrypt_into(envelope.nonce, sealed, associated(envelope.opening, key), payload)
        except InvalidTag as error:
            raise SerdeError(
                f"the payload was not encrypted for this chunk with the key that is called "
                f"{envelope.key_id!r} here, or was changed"
            ) from error
        except OverflowError as error:
            raise SerdeError(f"{sealed.nbytes} bytes cannot be decrypted: {error}") from error

    def close(self) -> None:
        """Let go of the keys."""
        self._ciphers = {}


def _new_buffer(nbytes: int) -> memoryview:
    """Memory for a payload.

    A long bytearray would be zeroed page by page with the interpreter's lock
    held. Memory of the system's is zeroed as the cipher, without the lock,
    writes into it; by huge pages that takes half the time of the whole.
    """
    if nbytes < MAPPED_BYTES:
        return memoryview(bytearray(nbytes))
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)
