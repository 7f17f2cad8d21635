"""What a request that names tokens says about whose they are."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from lmcache_core.keys import EMPTY_SCOPE, Scope

CacheSalt = Annotated[
    str, Meta(max_length=1024, description="The request's cache_salt; only its digest is kept.")
]

Adapter = Annotated[str, Meta(max_length=1024, description="The request's adapter, by content.")]

Tags = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=128)], Annotated[str, Meta(max_length=1024)]],
    Meta(max_length=32, description="The request's `lmcache.tag.NAME` parameters, by NAME."),
]


class Scoped(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the request that computed some tokens varied by."""

    cache_salt: CacheSalt | None = None
    adapter: Adapter | None = None
    tags: Tags = {}

    @property
    def scope(self) -> Scope:
        """The same, as keys are seeded with it."""
        if self.cache_salt is None and self.adapter is None and not self.tags:
            return EMPTY_SCOPE
        return Scope.of(adapter=self.adapter, cache_salt=self.cache_salt, tags=self.tags)
