"""``LMCacheTier``: any storage backend as a secondary tier of vLLM's own."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from vllm.v1.kv_offload.base import (
    Locality,
    LookupResult,
    Medium,
    OffloadingEvent,
    OffloadKey,
    ReqContext,
    RequestOffloadingContext,
    ScheduleEndContext,
)
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager, TransferJob
from vllm.v1.metrics.cache_hit_source import CacheHitSource

from lmcache_connector_vllm.logs import join_vllm_log
from lmcache_connector_vllm.offloading.events import Announcements
from lmcache_connector_vllm.offloading.jobs import Jobs, Work
from lmcache_connector_vllm.offloading.lookups import Lookups
from lmcache_connector_vllm.offloading.names import Names
from lmcache_connector_vllm.offloading.settings import Settings, read_settings
from lmcache_core.engine import make_block_store
from lmcache_core.errors import BackendError
from lmcache_core.log import get_logger
from lmcache_core.plugins import PluginRegistry

if TYPE_CHECKING:
    from vllm.v1.kv_offload.base import OffloadingSpec
    from vllm.v1.kv_offload.tiering.backpressure import BackpressureDetector

log = get_logger(__name__)

READERS = 2


class LMCacheTier(SecondaryTierManager):  # type: ignore[misc]
    """Keeps vLLM's offloaded blocks in a storage backend, framed and verified.

    What fails is a miss: a store that is slow, gone or lying costs its
    deadline once, and nothing at all while its breaker is open.

    Args:
        offloading_spec: vLLM's offloading configuration.
        primary_kv_view: vLLM's host memory, a row for each block.
        tier_type: What the configuration calls this tier.
        backpressure_detector: vLLM's own, where one is configured.
        entry: The keys of an entry of ``storage``, and ``revision``,
            ``namespace`` and ``locality``.

    Raises:
        ConfigError: A value is wrong.
        UnknownNameError: The backend or a serde is not installed.
        PluginError: A plugin that is named is broken.
        BackendError: The store cannot be used, and ``on_start_failure`` forbids
            to serve without it.
    """

    medium: ClassVar[Medium] = Medium.STORAGE

    def __init__(
        self,
        offloading_spec: OffloadingSpec,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: BackpressureDetector | None = None,
        **entry: Any,  # noqa: ANN401 - whatever the configuration says
    ) -> None:
        super().__init__(offloading_spec, primary_kv_view, tier_type, backpressure_detector)
        join_vllm_log()
        settings = read_settings(offloading_spec, entry, self.block_size_bytes)
        self._names = Names(settings.namespace.digest())
        self._store = make_block_store(
            config=settings.config,
            tier=settings.tier,
            namespace=settings.namespace,
            block_bytes=self.block_size_bytes,
            registry=PluginRegistry.discover(),
        )
        shared = self._store.tier.shared
        self.locality = settings.locality or (Locality.REMOTE if shared else Locality.LOCAL)
        self.cache_hit_source = (
            CacheHitSource.EXTERNAL_UNSPECIFIED if shared else CacheHitSource.DISK
        )
        self._announcements = Announcements(
            wanted=offloading_spec.kv_events_config.enable_kv_cache_events,
            medium=self.medium,
            locality=self.locality,
        )
        self._open(settings)
        self._lookups = Lookups(self._store, settings.config.promotion_timeout_seconds)
        self._memory = primary_kv_view.cast("B")
        name = self._store.tier.name
        self._stores = Jobs(f"lmcache-{name}-offload", self._put, self.block_size_bytes, 1)
        self._loads = Jobs(f"lmcache-{name}-onload", self._get, self.block_size_bytes, READERS)
        log.info("offload.started", tier=name, instance_id=settings.config.instance_id)

    def lookup(self, key: OffloadKey, req_context: ReqContext) -> LookupResult:
        """Tell whether a block can be had; asks nobody while vLLM waits."""
        return self._lookups.look(self._names.of(key), req_context.req_id)

    def submit_store(self, job_metadata: TransferJob) -> None:
        """Queue blocks to be stored."""
        work = self._work(job_metadata)
        with self._store.changed:
            self._announcements.expect(work.keys, job_metadata.keys)
        self._stores.submit(work)

    def submit_load(self, job_metadata: TransferJob) -> None:
        """Queue blocks to be read."""
        self._loads.submit(self._work(job_metadata))

    def get_finished_jobs(self) -> Iterable[JobResult]:
        """What has become of jobs."""
        results = []
        for done in self._stores.finished():
            with self._store.changed:
                self._announcements.no_longer(done.work.keys)
            results.append(done.result)
        for done in self._loads.finished():
            failed = [key for key, ok in zip(done.work.keys, done.moved, strict=True) if not ok]
            if failed:
                self._lookups.refuse(done.work.job.req_context.req_id, failed)
            results.append(done.result)
        return results

    def take_events(self) -> Iterable[OffloadingEvent]:
        """What this instance has stored, and what of it has gone."""
        with self._store.changed:
            return self._announcements.take()

    def touch(self, keys: Collection[OffloadKey], req_context: ReqContext) -> None:
        """Note a use of blocks."""
        del req_context
        self._store.touch([self._names.of(key) for key in keys])

    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext:
        """Take blocks as they are computed."""
        del req_context
        return RequestOffloadingContext()

    def on_request_finished(self, req_context: ReqContext) -> None:
        """Forget what was looked for."""
        self._lookups.forget(req_context.req_id)

    def on_schedule_end(self, context: ScheduleEndContext) -> None:
        """Ask a shared store for what this step has looked for."""
        del context
        self._lookups.flush()

    def drain_jobs(self) -> None:
        """Wait for all jobs; then name every block anew.

        vLLM calls this when it resets its caches, and so wherever weights may
        have been changed in place.
        """
        self._stores.drain()
        self._loads.drain()
        self._names.start_anew()

    def shutdown(self) -> None:
        """End all jobs and close the store.

        Raises:
            BackendError: A job still has to do with vLLM's memory, which must stay.
        """
        for jobs in (self._stores, self._loads):
            jobs.stop()
        self._store.close()
        for jobs in (self._stores, self._loads):
            jobs.join()
        self._memory.release()

    def _open(self, settings: Settings) -> None:
        try:
            self._store.open(
                on_admitted=self._announcements.admitted, on_evicted=self._announcements.evicted
            )
        except BackendError as error:
            if settings.config.on_start_failure == "fail":
                self._store.close()
                raise
            self._store.leave_out(str(error))

    def _work(self, job: TransferJob) -> Work:
        return Work(job, [self._names.of(key) for key in job.keys])

    def _blocks(self, work: Work) -> list[memoryview]:
        nbytes = self.block_size_bytes
        begins = [int(row) * nbytes for row in work.job.chunk_ids]
        return [self._memory[begin : begin + nbytes] for begin in begins]

    def _put(self, work: Work) -> list[bool]:
        return self._store.put(work.keys, self._blocks(work))

    def _get(self, work: Work) -> list[bool]:
        return self._store.get(work.keys, self._blocks(work))
