"""The pin on its own prompt that a request may ask for, and what it is answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from lmcache_core.api.connector import CacheFacade
from lmcache_core.errors import LMCacheError

if TYPE_CHECKING:
    from vllm.v1.request import Request

PARAMETER = "lmcache.pin"
"""Of ``kv_transfer_params``, in a request and in its response."""


def pin_prompt(facade: CacheFacade, request: Request) -> dict[str, object] | None:
    """Pin a request's prompt where it asks for that.

    vLLM has no way to refuse a request from here, and its answer is as good
    without a pin, so that what is wrong is said in the response.

    Returns:
        The ``kv_transfer_params`` of its response; None where it asks for no pin.
    """
    wish = _wish(request)
    if wish is None:
        return None
    try:
        promise = facade.pin(request.request_id, request.num_prompt_tokens, wish)
    except LMCacheError as error:
        return refused_pin(request, str(error))
    return {PARAMETER: msgspec.to_builtins(promise)}


def refused_pin(request: Request, reason: str) -> dict[str, object] | None:
    """The ``kv_transfer_params`` of the response to a wish that is not granted."""
    return None if _wish(request) is None else {PARAMETER: {"error": reason}}


def _wish(request: Request) -> object:
    return (request.kv_transfer_params or {}).get(PARAMETER)
