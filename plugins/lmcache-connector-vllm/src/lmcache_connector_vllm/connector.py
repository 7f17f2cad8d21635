"""The class that vLLM makes: one in the scheduler's process, one in the worker's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorRole,
    SupportsHMA,
)

from lmcache_connector_vllm.block_events import block_events
from lmcache_connector_vllm.kv_groups import cached_group_ids, common_block_tokens
from lmcache_connector_vllm.launch import Launched
from lmcache_connector_vllm.logs import join_vllm_log
from lmcache_connector_vllm.metadata import (
    IDLE,
    StepPlan,
    StepReport,
    WorkerOffer,
    WorkerRefusal,
)
from lmcache_connector_vllm.peers import PeerError, Peers
from lmcache_connector_vllm.place import Place
from lmcache_connector_vllm.scheduler_side import SchedulerSide
from lmcache_connector_vllm.settings import engine_config
from lmcache_connector_vllm.stats import CachePromMetrics, CacheStats
from lmcache_connector_vllm.support import why_declined
from lmcache_connector_vllm.unserved import UnservedError
from lmcache_connector_vllm.worker_side import WorkerSide
from lmcache_connector_vllm.worker_start import agree_on_shards, start_worker
from lmcache_core.errors import ConfigError, LMCacheError, PluginError, UnknownNameError
from lmcache_core.log import get_logger

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorHandshakeMetadata
    from vllm.distributed.kv_transfer.kv_connector.v1.metrics import PromMetric, PromMetricT
    from vllm.forward_context import ForwardContext
    from vllm.v1.attention.backend import AttentionMetadata
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.metrics.cache_hit_source import CacheHitSource
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request

log = get_logger(__name__)

SETTINGS_ERRORS = (ConfigError, PluginError, UnknownNameError)
"""Errors that only a person can mend: they end the start, whatever is configured."""


class LMCacheConnectorV1(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """Keeps KV caches in the tiers of lmcache-core.

    Every hook is answered by one of two sides. Where the cache is declined or
    has failed to start there is no side, and vLLM serves as if there were no
    connector.

    Args:
        vllm_config: vLLM's configuration.
        role: Which side this is.
        kv_cache_config: The KV cache as vLLM laid it out.

    Raises:
        ConfigError: The configuration is wrong.
    """

    def __init__(
        self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        join_vllm_log()
        self._worker: WorkerSide | None = None
        self._scheduler: SchedulerSide | None = None
        self._launched: Launched | None = None
        self._block_pool: BlockPool = None
        self._declined = why_declined(vllm_config, kv_cache_config)
        if self._declined is not None:
            if role == KVConnectorRole.SCHEDULER:
                self._decline(self._declined)
            return
        self._config = engine_config(
            vllm_config,
            common_block_tokens(kv_cache_config),
            announce=role == KVConnectorRole.SCHEDULER,
        )

    @property
    def requires_kv_delivery(self) -> bool:
        """A cache may lose a store; vLLM need not recompute a request for it."""
        return False

    # -- the worker's side --------------------------------------------------

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """Make or map the shared region, and the movers between it and the KV cache."""
        peers = Peers.of(self._vllm_config.parallel_config)
        try:
            shard = agree_on_shards(peers, self._kv_cache_config, kv_caches, self._declined)
            self._worker = start_worker(
                peers,
                shard,
                self._config,
                vllm_config=self._vllm_config,
                kv_cache_config=self._kv_cache_config,
                kv_caches=kv_caches,
            )
        except UnservedError as error:
            self._declined = str(error)
        except PeerError:
            # The rank that failed says so in the log, or ends the start.
            return
        except LMCacheError as error:
            self._survive(error)

    def get_handshake_metadata(self) -> WorkerOffer | WorkerRefusal | None:
        """What the scheduler's side needs to know of this rank."""
        if self._worker is not None:
            return self._worker.offer
        return None if self._declined is None else WorkerRefusal(self._declined)

    def start_load_kv(self, forward_context: ForwardContext, **kwargs: object) -> None:  # noqa: ARG002 - vLLM's
        """Load what the step reads; the loads of this connector are done when it returns."""
        if self._worker is not None:
            self._worker.load(self._get_connector_metadata())

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Do nothing: loads are done before the first layer."""

    def save_kv_layer(
        self,
        layer_name: str,
        kv_layer: torch.Tensor,
        attn_metadata: AttentionMetadata,
        **kwargs: object,
    ) -> None:
        """Do nothing: pages are read after the last layer."""

    def wait_for_save(self) -> None:
        """Start the step's stores; their blocks are held until they are done."""
        if self._worker is not None:
            self._worker.store(self._get_connector_metadata())

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Blocks that vLLM has to compute after all."""
        return set() if self._worker is None else self._worker.take_invalid_blocks()

    def build_connector_worker_meta(self) -> StepReport | None:
        """Acknowledge the copies that are done."""
        return None if self._worker is None else self._worker.report()

    # -- the scheduler's side -----------------------------------------------

    def bind_gpu_block_pool(self, gpu_block_pool: BlockPool) -> None:
        """Remember vLLM's block pool, whose blocks are held during stores."""
        self._block_pool = gpu_block_pool

    def set_xfer_handshake_metadata_pp_aware(
        self, metadata: dict[tuple[int, int], KVConnectorHandshakeMetadata]
    ) -> None:
        """Start the engine in the region that the ranks have mapped.

        Args:
            metadata: What the ranks hand over, by pipeline and tensor rank.
        """
        if self._declined is not None:
            return
        # Stage by stage, tensor rank by tensor rank, as the shards lie in a slot.
        answers = [metadata[rank] for rank in sorted(metadata)]
        refusal = next((each for each in answers if isinstance(each, WorkerRefusal)), None)
        if refusal is not None:
            self._decline(refusal.reason)
            return
        offers = [each for each in answers if isinstance(each, WorkerOffer)]
        if len(offers) != self._vllm_config.parallel_config.world_size:
            log.warning(
                "connector.no_region", outcome="no cache", reason="the workers' log says why"
            )
            return
        apart = Place.here().apart_from(offers[0].place)
        if apart is not None:
            self._decline(f"the scheduler is {apart} than its ranks")
            return
        try:
            launched = Launched(self._vllm_config, self._kv_cache_config, self._config, offers)
        except LMCacheError as error:
            self._survive(error)
            return
        self._launched = launched
        self._scheduler = SchedulerSide(
            launched.facade,
            self._config,
            ranks=len(offers),
            block_tokens=common_block_tokens(self._kv_cache_config),
            group_ids=cached_group_ids(self._kv_cache_config),
            pool=self._block_pool,
            reads=self._kv_transfer_config.is_kv_consumer,
            writes=self._kv_transfer_config.is_kv_producer,
        )

    def on_new_request(self, request: Request) -> None:
        """Note a request."""
        if self._scheduler is not None:
            self._scheduler.begin(request)

    def get_num_new_matched_tokens(
        self, request: Request, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        """Offer the tokens that can be loaded beyond vLLM's own; never asynchronously."""
        if self._scheduler is None:
            return 0, False
        return self._scheduler.match(request, num_computed_tokens), False

    def update_state_after_alloc(
        self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int
    ) -> None:
        """Plan the load of the tokens that vLLM has made room for."""
        if self._scheduler is not None:
            self._scheduler.allocated(request, blocks.get_block_ids(), num_external_tokens)

    def get_external_cache_hit_sources(
        self, request: Request, num_external_tokens: int
    ) -> dict[CacheHitSource, int]:
        """Say which kind of tier the loaded tokens came from."""
        if self._scheduler is None or self._launched is None:
            return {}
        sources: dict[CacheHitSource, int] = {}
        for location, tokens in self._scheduler.hit_locations(request, num_external_tokens).items():
            source = self._launched.sources[location]
            sources[source] = sources.get(source, 0) + tokens
        return sources

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> StepPlan:
        """Hand the step's loads and stores to the worker."""
        if self._scheduler is None:
            return IDLE
        return self._scheduler.plan_step(
            scheduler_output.num_scheduled_tokens, scheduler_output.kv_connector_block_state
        )

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        """Take in the worker's acknowledgements."""
        report = connector_output.kv_connector_worker_meta
        if self._scheduler is not None and report is not None:
            self._scheduler.acknowledge(report)

    def request_finished_all_groups(
        self, request: Request, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Forget a request; its blocks are held one by one where they are still read."""
        answer = None if self._scheduler is None else self._scheduler.finish(request, block_ids)
        return False, answer

    def has_pending_block_frees(self) -> bool:
        """Whether a store will give blocks back, so that none need be taken by force."""
        return self._scheduler is not None and self._scheduler.holds_blocks

    def has_pending_push_work(self) -> bool:
        """Whether acknowledgements are due, which travel in steps only."""
        return self._scheduler is not None and self._scheduler.open_jobs > 0

    def reset_cache(self) -> bool:
        """Let nothing stored so far be read again; nothing is deleted and pins stay."""
        if self._scheduler is not None:
            self._scheduler.reset()
        return True

    def take_events(self) -> Iterable[Any]:
        """Announce chunks that have come and gone, where ``--kv-events-config`` asks for it."""
        if self._launched is None or not self._launched.announces:
            return ()
        changes = self._launched.facade.take_changes()
        return block_events(changes, self._config.memory_tier.backend)

    # -- both ---------------------------------------------------------------

    def get_kv_connector_stats(self) -> CacheStats | None:
        """What the engine has counted since the last call; the worker counts nothing."""
        return None if self._scheduler is None else self._scheduler.take_stats()

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> CacheStats:
        """Make statistics of what travelled between processes."""
        return CacheStats(data=data or {})

    @classmethod
    def build_prom_metrics(
        cls,
        vllm_config: VllmConfig,
        metric_types: dict[type[PromMetric], type[PromMetricT]],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> CachePromMetrics:
        """Make the metrics on vLLM's ``/metrics``."""
        return CachePromMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)

    def shutdown(self) -> None:
        """Close what this side has opened; idempotent."""
        if self._worker is not None:
            self._worker.close()
        self._scheduler = None
        if self._launched is not None:
            self._launched.close()

    def _decline(self, reason: str) -> None:
        self._declined = reason
        log.warning("connector.declined", reason=reason, outcome="no cache")

    def _survive(self, error: LMCacheError) -> None:
        """Serve without a cache after a failure of the machine.

        Raises:
            LMCacheError: The configuration is wrong, or forbids to serve so.
        """
        if isinstance(error, SETTINGS_ERRORS) or self._config.on_start_failure == "fail":
            raise error
        log.error("connector.start_failed", reason=str(error), outcome="no cache")
