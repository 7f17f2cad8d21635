"""What of a request decides whether it may share KV with another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmcache_connector_vllm.adapters import AdapterNames
from lmcache_connector_vllm.uncacheable import UncacheableError
from lmcache_core.keys import Placeholder, Scope

if TYPE_CHECKING:
    from vllm.v1.request import Request

TAG_PREFIX = "lmcache.tag."
SKIP_SAVE = "lmcache.skip_save"


class Scopes:
    """Makes the scope of each request."""

    def __init__(self) -> None:
        self._adapters = AdapterNames()

    def of(self, request: Request) -> Scope:
        """The scope of a request.

        Args:
            request: vLLM's scheduler-side ``Request``.

        Raises:
            UncacheableError: What it computes depends on something unknown.
        """
        if request.prompt_embeds is not None or request.prompt_token_ids is None:
            raise UncacheableError("prompt embeddings have no token ids to name them by")
        if getattr(request, "resumable", False):
            raise UncacheableError("a streaming session takes back tokens it has shown")
        adapter = None
        if request.lora_request is not None:
            adapter = self._adapters.name(request.lora_request)
        return Scope.of(
            adapter=adapter,
            cache_salt=request.cache_salt,
            tags=request_tags(request),
            placeholders=tuple(
                Placeholder(feature.identifier, feature.mm_position.offset)
                for feature in request.mm_features
            ),
        )


def request_tags(request: Request) -> dict[str, str]:
    """The ``lmcache.tag.NAME`` parameters of a request.

    Raises:
        UncacheableError: One is no string.
    """
    tags = {
        key.removeprefix(TAG_PREFIX): value
        for key, value in (request.kv_transfer_params or {}).items()
        if key.startswith(TAG_PREFIX)
    }
    if not all(isinstance(value, str) for value in tags.values()):
        raise UncacheableError(f"the value of a {TAG_PREFIX}* parameter is no string")
    return tags


def skips_save(request: Request) -> bool:
    """Whether a request asks for nothing of it to be stored."""
    value = (request.kv_transfer_params or {}).get(SKIP_SAVE)
    return value is True or str(value).lower() in ("1", "true")
