"""What an engine is configured with, in the units the code works in."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

GIB = 1 << 30
MIB = 1 << 20

DEFAULT_MEMORY_BACKEND = "LocalCPUBackend"
DEFAULT_MEMORY_BYTES = 5 * GIB
DEFAULT_CONTROLLER_URL = "tcp://localhost:9001"
DEFAULT_INSTANCE_ID = "lmcache_default_instance"

ANYWHERE = "any"
"""What no tier may be called: as the location of a pin it means all tiers together."""


class SerdeConfig(msgspec.Struct, frozen=True):
    """One serde of a tier's chain.

    Attributes:
        name: Its name.
        options: Its own section, validated like a backend's.
    """

    name: str
    options: dict[str, Any] = {}


class TierRules(msgspec.Struct, frozen=True):
    """Which chunks a storage tier is to have, and when.

    Attributes:
        write: Whether it is given what is stored at once (``through``) or
            what is evicted above it (``back``).
        promote: Whether it is given what was read from a tier below it.
        min_tokens: Chunks of fewer tokens are not let in.
        min_reuse: Nor are those that were computed or hit fewer times.
    """

    write: Literal["through", "back"] = "through"
    promote: bool = True
    min_tokens: int = 1
    min_reuse: int = 1


class TierConfig(msgspec.Struct, frozen=True):
    """One tier.

    Attributes:
        backend: Name of the backend under it, which is also the tier's name.
        capacity_bytes: Its bound, or None where the store has its own.
        options: The plugin's own section, not yet validated: the plugin's
            ``Config`` does that, see
            :func:`~lmcache_core.config.plugin_section`.
        serdes: What encodes its frames, in that order.
        rules: Which chunks it is to have; of a storage tier.
    """

    backend: str
    capacity_bytes: int | None = None
    options: dict[str, Any] = {}
    serdes: tuple[SerdeConfig, ...] = ()
    rules: TierRules = TierRules()


DEFAULT_TIERS = (TierConfig(DEFAULT_MEMORY_BACKEND, DEFAULT_MEMORY_BYTES),)


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one ``CacheEngine`` is told from outside.

    Attributes:
        chunk_size: Tokens in a whole chunk.
        chunk_size_explicit: Whether somebody asked for that size; only a
            default may be rounded up to the engine's block size.
        tiers: From the top; the first is the memory tier.
        staging_bytes: Memory beside the memory tier that no entry and no pin
            may take, so that a full cache can still promote.
        instance_id: The engine's id on every route.
        enable_controller: Whether to dial a controller.
        controller_url: Its address as ``scheme://host:port``, or None.
        cache_policy: Name of the eviction policy.
        save_decode_cache: Whether tokens that were generated are stored too.
        min_retrieve_tokens: Shorter hits are not worth a load.
        pin_share: Share of each tier that pins may take, from 0 to 1.
        pin_owner_quota_bytes: What one owner's pins may take, or None.
        request_pin_owner: Owner of the pins that requests ask for, or None
            where they may not.
        request_pin_quota_bytes: What that owner's pins may take.
        request_pin_max_ttl_seconds: How long such a pin lives at most.
        promotion_timeout_seconds: Deadline of a promotion into memory.
        storage_timeout_seconds: Deadline of one call of a storage backend.
        job_timeout_seconds: After this an unacknowledged job raises an alarm.
        heartbeat_seconds: How often the controller hears of the engine.
        serving_url: Where the server answers, so that a controller can
            tokenize and have prompts computed, or None.
        on_start_failure: Whether to serve without a part that failed to start.
        weights_epoch: Raised whenever the weights change in place.
    """

    chunk_size: int = 256
    chunk_size_explicit: bool = False
    tiers: tuple[TierConfig, ...] = DEFAULT_TIERS
    staging_bytes: int = DEFAULT_MEMORY_BYTES // 16
    instance_id: str = DEFAULT_INSTANCE_ID
    enable_controller: bool = False
    controller_url: str | None = None
    cache_policy: str = "LRU"
    save_decode_cache: bool = False
    min_retrieve_tokens: int = 0
    pin_share: float = 0.8
    pin_owner_quota_bytes: int | None = None
    request_pin_owner: str | None = None
    request_pin_quota_bytes: int | None = None
    request_pin_max_ttl_seconds: float | None = None
    promotion_timeout_seconds: float = 2.0
    storage_timeout_seconds: float = 10.0
    job_timeout_seconds: float = 30.0
    heartbeat_seconds: float = 5.0
    serving_url: str | None = None
    on_start_failure: Literal["serve", "fail"] = "serve"
    weights_epoch: int = 0

    @property
    def memory_tier(self) -> TierConfig:
        """The first tier, whose backend provides the pool's memory."""
        return self.tiers[0]

    @property
    def storage_tiers(self) -> tuple[TierConfig, ...]:
        """The tiers below host memory, from the top."""
        return self.tiers[1:]


def default_staging_bytes(memory_bytes: int) -> int:
    """A sixteenth of the memory tier, and enough for a few chunks of a large model."""
    return max(64 * MIB, memory_bytes // 16)
