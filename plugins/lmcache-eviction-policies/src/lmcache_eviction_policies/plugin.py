"""What this distribution offers; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lmcache_core import hookimpl
from lmcache_core.api import EvictionPolicy, EvictionPolicySpec

LMCACHE_PLUGIN_API = (0, 2)


@hookimpl
def lmcache_register_eviction_policies() -> Sequence[EvictionPolicySpec]:
    """Offer ``LRU``, ``MRU``, ``FIFO``, ``LFU`` and ``S3-FIFO``."""
    return [
        EvictionPolicySpec(name="LRU", summary="evicts what was used longest ago", load=_load_lru),
        EvictionPolicySpec(
            name="MRU", summary="evicts what was used last; for scans that repeat", load=_load_mru
        ),
        EvictionPolicySpec(
            name="FIFO", summary="evicts what came first, used or not", load=_load_fifo
        ),
        EvictionPolicySpec(
            name="LFU", summary="evicts what is used least; old uses fade", load=_load_lfu
        ),
        EvictionPolicySpec(
            name="S3-FIFO",
            summary="evicts early what is used once; for scans beside prompts that return",
            load=_load_s3fifo,
        ),
    ]


def _load_lru() -> Callable[..., EvictionPolicy]:
    from lmcache_eviction_policies.in_line import LRU  # noqa: PLC0415 - loaded lazily

    return LRU


def _load_mru() -> Callable[..., EvictionPolicy]:
    from lmcache_eviction_policies.in_line import MRU  # noqa: PLC0415 - loaded lazily

    return MRU


def _load_fifo() -> Callable[..., EvictionPolicy]:
    from lmcache_eviction_policies.in_line import FIFO  # noqa: PLC0415 - loaded lazily

    return FIFO


def _load_lfu() -> Callable[..., EvictionPolicy]:
    from lmcache_eviction_policies.lfu import LFU  # noqa: PLC0415 - loaded lazily

    return LFU


def _load_s3fifo() -> Callable[..., EvictionPolicy]:
    from lmcache_eviction_policies.s3fifo import S3FIFO  # noqa: PLC0415 - loaded lazily

    return S3FIFO
