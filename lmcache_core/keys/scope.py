"""What varies by request and decides whether two prompts may share bytes."""

from __future__ import annotations

import hashlib

import msgspec

from lmcache_core.keys.canonical import record_digest


class Placeholder(msgspec.Struct, frozen=True):
    """A multimodal item's place in the prompt.

    Attributes:
        identifier: Content hash of the item.
        offset: Index of its first token.
    """

    identifier: str
    offset: int


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """Adapter, salt, tags and multimodal content of a request.

    Attributes:
        adapter: Name of the adapter by content, or None for the base model.
        salt: Hex SHA-256 of the cache salt, or None; the salt itself is a
            secret and is never kept. Use :meth:`of` to make one from a salt.
        tags: Request tags; unlike :term:`labels <label>` they are in the key.
        placeholders: Multimodal items in the order of the prompt.
    """

    adapter: str | None = None
    salt: str | None = None
    tags: dict[str, str] = {}
    placeholders: tuple[Placeholder, ...] = ()

    @classmethod
    def of(
        cls,
        *,
        adapter: str | None = None,
        cache_salt: str | None = None,
        tags: dict[str, str] | None = None,
        placeholders: tuple[Placeholder, ...] = (),
    ) -> Scope:
        """Make a scope from what a request carries, digesting the salt."""
        salt = None if cache_salt is None else hashlib.sha256(cache_salt.encode()).hexdigest()
        return cls(adapter=adapter, salt=salt, tags=tags or {}, placeholders=placeholders)

    def digest(self) -> bytes:
        """The scope's 32-byte name."""
        # Most requests and pins are plain, and each of them asks.
        return _EMPTY_DIGEST if self == EMPTY_SCOPE else record_digest(_DOMAIN, self)


EMPTY_SCOPE = Scope()
"""The scope of a plain request: no adapter, salt, tag or picture."""

_DOMAIN = "lmcache:scope:1"
_EMPTY_DIGEST = record_digest(_DOMAIN, EMPTY_SCOPE)
