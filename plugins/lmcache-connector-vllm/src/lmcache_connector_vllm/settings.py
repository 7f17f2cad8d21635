"""The instance's configuration, fitted to what vLLM has decided."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from lmcache_core.config import EngineConfig, load_engine_config
from lmcache_core.errors import ConfigError
from lmcache_core.log import get_logger

if TYPE_CHECKING:
    from vllm.config import ParallelConfig, VllmConfig

log = get_logger(__name__)


def engine_config(vllm_config: VllmConfig, block_tokens: int, *, announce: bool) -> EngineConfig:
    """Resolve the configuration of the serving instance.

    Sources are the file that ``LMCACHE_CONFIG_FILE`` names, the environment,
    and the ``lmcache.*`` keys of ``kv_connector_extra_config``.

    Args:
        vllm_config: vLLM's configuration.
        block_tokens: Tokens in one of its blocks.
        announce: Whether to log the notices; one process of several does.

    Raises:
        ConfigError: A value is wrong; one sentence that says what to do.
    """
    resolved = load_engine_config(
        overrides=vllm_config.kv_transfer_config.kv_connector_extra_config
    )
    if announce:
        for notice in resolved.notices:
            log.warning("config.notice", notice=notice)
    config = resolved.config
    return msgspec.structs.replace(
        config,
        chunk_size=fitted_chunk_size(config, block_tokens, resolved.origin.get("chunk_size")),
        instance_id=instance_id(config.instance_id, vllm_config.parallel_config),
    )


def fitted_chunk_size(config: EngineConfig, block_tokens: int, origin: str | None = None) -> int:
    """A chunk size that whole blocks make up.

    Pages are taken as opaque bytes, so a chunk cannot end inside one. Models
    force block sizes on vLLM, so the default adapts; a size that somebody
    asked for is not changed behind his back.

    Raises:
        ConfigError: A size was asked for that is no multiple of the block.
    """
    size = config.chunk_size
    if size % block_tokens == 0:
        return size
    above = -(-size // block_tokens) * block_tokens
    if not config.chunk_size_explicit:
        log.info("config.chunk_size_rounded", default=size, chunk_size=above, block=block_tokens)
        return above
    below = above - block_tokens
    choices = f"{below} or {above}" if below else f"{above}"
    message = (
        f"chunk_size {size} is no multiple of vLLM's block size of {block_tokens} tokens; "
        f"set chunk_size to {choices}, or leave it out"
    )
    raise ConfigError(message, key="chunk_size", source=origin)


def instance_id(configured: str, parallel_config: ParallelConfig) -> str:
    """The engine's id: every data-parallel rank is an instance of its own."""
    rank = getattr(parallel_config, "data_parallel_index", 0)
    if rank or parallel_config.data_parallel_size > 1:
        return f"{configured}_dp{rank}"
    return configured
