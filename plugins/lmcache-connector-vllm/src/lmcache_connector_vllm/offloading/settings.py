"""What a secondary tier is configured with, and what its blocks are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import vllm
from vllm.platforms import current_platform
from vllm.v1.kv_offload.base import Locality

from lmcache_connector_vllm.settings import instance_id
from lmcache_connector_vllm.weights import model_digest
from lmcache_core.config import EngineConfig, TierConfig, load_engine_config, read_entry
from lmcache_core.errors import ConfigError
from lmcache_core.keys import Namespace
from lmcache_core.log import get_logger

if TYPE_CHECKING:
    from vllm.v1.kv_offload.base import OffloadingSpec
    from vllm.v1.kv_offload.config import OffloadingConfig

log = get_logger(__name__)

WHERE = "the entry of secondary_tiers"

VLLMS = ("write", "promote", "admit")
"""Keys of an entry of ``storage`` that say what vLLM's manager decides."""


class Settings(NamedTuple):
    """A secondary tier's settings.

    Attributes:
        config: The instance's id, deadlines, policy and staging memory, from
            the sources that every setting has.
        tier: The backend, as an entry of ``storage`` would say it.
        namespace: Who may exchange blocks with this instance.
        locality: Where the store is, for vLLM's routers; None for what the
            backend's capabilities say.
    """

    config: EngineConfig
    tier: TierConfig
    namespace: Namespace
    locality: Locality | None


def read_settings(spec: OffloadingSpec, entry: Mapping[str, Any], block_bytes: int) -> Settings:
    """Read the entry of ``secondary_tiers``, less what vLLM has taken out of it.

    Args:
        spec: vLLM's offloading configuration.
        entry: The keys of an entry of ``storage``; and ``revision``,
            ``namespace`` and ``locality``.
        block_bytes: Length of a block in host memory.

    Raises:
        ConfigError: A value is wrong; one sentence that says what to do.
    """
    rest = dict(entry)
    revision = rest.pop("revision", None)
    extra = rest.pop("namespace", "")
    locality = _locality(rest.pop("locality", None))
    moved = next((key for key in VLLMS if key in rest), None)
    if moved is not None:
        message = f"{WHERE}: {moved} is not for here; vLLM decides what is written and promoted"
        raise ConfigError(message, key=moved)
    try:
        tier = read_entry(rest, WHERE, memory=False)
    except ValueError as error:
        raise ConfigError(str(error), key="secondary_tiers") from error
    resolved = load_engine_config(overrides=spec.extra_config)
    for notice in resolved.notices:
        log.warning("config.notice", notice=notice)
    config = resolved.config
    of = spec.config
    return Settings(
        config=msgspec.structs.replace(
            config, instance_id=instance_id(config.instance_id, of.parallel)
        ),
        tier=tier,
        namespace=_namespace(of, config, block_bytes, revision, str(extra)),
        locality=locality,
    )


def _namespace(
    of: OffloadingConfig, config: EngineConfig, block_bytes: int, revision: str | None, extra: str
) -> Namespace:
    """Name everything static that vLLM tells its tiers, and what the operator adds.

    vLLM does not hand a tier its whole configuration: quantisation, overrides
    and attention backend of the command line have to be named by hand.
    """
    folder = Path(of.model.name)
    layers = hashlib.sha256(
        "\n".join(f"{group.group_id} {' '.join(group.layer_names)}" for group in of.groups).encode()
    )
    parallel = of.parallel
    return Namespace(
        model=folder.name if folder.exists() else of.model.name,
        weights=model_digest(of.model.name, revision),
        weights_epoch=config.weights_epoch,
        engine="vllm-" + ".".join(vllm.__version__.split(".")[:2]),
        dtype=of.model.dtype,
        layout=of.kv_cache_layout or "",
        isa=current_platform.device_type,
        block_size=tuple(group.tokens_per_block for group in of.groups),
        page_bytes=(block_bytes,),
        chunk_size=1,
        ranks=parallel.world_size,
        extra={
            "blocks_per_chunk": str(of.cache.blocks_per_chunk),
            "canonical_layout": str(of.canonical_layout),
            "given": extra,
            "host": "OffloadingConnector",
            "layers": layers.hexdigest(),
            "parallel_sizes": (
                f"tp{parallel.tp_size} pp{parallel.pp_size} "
                f"pcp{parallel.pcp_size} dcp{parallel.dcp_size}"
            ),
            "replicated_layout": str(of.replicated_layout),
            "tokens_per_hash": str(of.cache.tokens_per_hash),
        },
    )


def _locality(raw: object) -> Locality | None:
    if raw is None:
        return None
    known = [locality.value for locality in Locality]
    if raw not in known:
        message = f"{WHERE}: locality is {raw!r}; it is one of {', '.join(known)}"
        raise ConfigError(message, key="locality")
    return Locality(raw)
