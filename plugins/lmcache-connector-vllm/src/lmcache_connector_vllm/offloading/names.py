"""The name that a block of vLLM has in a store."""

from __future__ import annotations

import hashlib
import secrets

from lmcache_core.keys import Key

DOMAIN = b"lmcache:offloaded-block:1\0"


class Names:
    """Makes 32-byte names of vLLM's offload keys, which are hashes of tokens.

    Args:
        namespace: Digest of what else decides what is in a block.
    """

    def __init__(self, namespace: bytes) -> None:
        self._seed = DOMAIN + namespace

    def of(self, offload_key: bytes) -> Key:
        """The name of one block."""
        return hashlib.sha256(self._seed + offload_key).digest()

    def start_anew(self) -> None:
        """From now on name every block differently, in this process only.

        The weights may have been changed in place. Nothing that was stored
        before may be read, by nobody may what is stored from now on be read
        that has other weights, and what these are nobody can tell.
        """
        self._seed = DOMAIN + secrets.token_bytes(32)
