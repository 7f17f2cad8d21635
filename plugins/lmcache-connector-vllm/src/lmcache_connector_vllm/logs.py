"""Showing the cache's log lines where vLLM's are."""

from __future__ import annotations

import logging

from lmcache_core.log import ROOT


def join_vllm_log() -> None:
    """Send what the cache logs through vLLM's handlers, at vLLM's level.

    The cache is quiet by itself; an operator who reads vLLM's log expects to
    find there whether the cache is on. Where somebody has given the cache's
    logger a handler, it is left as it is.
    """
    ours, theirs = logging.getLogger(ROOT), logging.getLogger("vllm")
    if not ours.handlers:
        ours.setLevel(theirs.level)
        for handler in theirs.handlers:
            ours.addHandler(handler)
