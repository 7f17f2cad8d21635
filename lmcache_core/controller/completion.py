"""A pin's prompt as vLLM's server is asked to compute it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from lmcache_core.controller.pin_row import PinContent
from lmcache_core.errors import LMCacheError
from lmcache_core.keys import Scope

PATH = "/v1/completions"
TAG_PREFIX = "lmcache.tag."
RANK_HEADER = "X-data-parallel-rank"


class InexpressibleError(LMCacheError):
    """What a pin's prompt was computed with cannot be told to a server."""


class Secrets(NamedTuple):
    """What the ledger does not keep of scopes and a server has to be told.

    Attributes:
        cache_salt: The salt of the pins that have one, or None.
        adapters: By content of an adapter, the name that it is served under.
    """

    cache_salt: str | None = None
    adapters: Mapping[str, str] = {}


def completion(content: PinContent, model: str, secrets: Secrets) -> dict[str, Any]:
    """The request that computes a pin's tokens in its scope, and one token more.

    Args:
        content: The pin's.
        model: The name that the server serves its model under.
        secrets: What the ledger does not keep of the scope.

    Raises:
        InexpressibleError: A server cannot be asked for that scope.
    """
    scope = content.scope
    if scope.placeholders:
        message = (
            "its prompt has pictures or other items in it, of which only digests are kept; have it "
            "computed by a request of your own"
        )
        raise InexpressibleError(message)
    body: dict[str, Any] = {
        "model": model,
        "prompt": struct.unpack(f"<{content.num_tokens}I", content.tokens),
        "max_tokens": 1,
        "temperature": 0,
    }
    if scope.salt is not None:
        salt = secrets.cache_salt
        if salt is None or Scope.of(cache_salt=salt).salt != scope.salt:
            message = (
                "it is for a cache_salt, of which only the digest is kept; give its cache_salt"
            )
            raise InexpressibleError(message)
        body["cache_salt"] = salt
    if scope.adapter is not None:
        name = secrets.adapters.get(scope.adapter)
        if name is None:
            message = (
                f"it is for the adapter {scope.adapter!r}; give adapters with the name that its "
                "server serves it under"
            )
            raise InexpressibleError(message)
        body["model"] = name
    if scope.tags:
        tags = {f"{TAG_PREFIX}{name}": value for name, value in scope.tags.items()}
        body["kv_transfer_params"] = tags
    return body
