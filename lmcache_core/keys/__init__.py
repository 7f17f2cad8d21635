"""Names of cached bytes: namespace, scope and the chain of chunk keys.

Same inputs, same key, in every process and language. The rule is published
with test vectors in ``docs/reference/keys.md``.
"""

from __future__ import annotations

from lmcache_core.keys.chain import (
    KEY_BYTES,
    TOKEN_BYTES,
    Key,
    KeyChain,
    TokenRangeError,
    chunk_key,
    tokens_to_bytes,
)
from lmcache_core.keys.namespace import Namespace
from lmcache_core.keys.parts import PRIME, SPREAD, Parts, make_parts
from lmcache_core.keys.scope import EMPTY_SCOPE, Placeholder, Scope

__all__ = [
    "EMPTY_SCOPE",
    "KEY_BYTES",
    "PRIME",
    "SPREAD",
    "TOKEN_BYTES",
    "Key",
    "KeyChain",
    "Namespace",
    "Parts",
    "Placeholder",
    "Scope",
    "TokenRangeError",
    "chunk_key",
    "make_parts",
    "tokens_to_bytes",
]
