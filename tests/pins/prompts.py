"""The prompts that children serve and pin, and the keys of their chunks."""

from __future__ import annotations

from functools import cache

from lmcache_core.keys import EMPTY_SCOPE, KeyChain, Namespace, tokens_to_bytes
from tests.engine.rig import CHUNK_TOKENS

FAMILIES = 6
PROMPTS = 2 * FAMILIES
"""Of each family a prompt of two chunks and one that goes on for a third."""

NAMESPACE = Namespace(model="rig", weights="00", chunk_size=CHUNK_TOKENS)


def prompt(number: int) -> list[int]:
    """The tokens of a prompt."""
    family, longer = divmod(number, 2)
    return [1000 * family + n for n in range((2 + longer) * CHUNK_TOKENS)]


def flooding(number: int) -> list[int]:
    """The tokens of a prompt that nobody pins."""
    return [100_000 + CHUNK_TOKENS * number + n for n in range(CHUNK_TOKENS)]


@cache
def keys(number: int) -> tuple[bytes, ...]:
    """The keys of a prompt's chunks."""
    chain = KeyChain(KeyChain.seed(NAMESPACE.digest(), EMPTY_SCOPE.digest()), CHUNK_TOKENS)
    chain.extend_bytes(tokens_to_bytes(prompt(number)))
    return tuple(chain.keys)
