"""The worker's side: copies pages, knows neither requests nor keys."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, TypeAlias

import torch

from lmcache_connector_vllm.copy_thread import CopyThread
from lmcache_connector_vllm.kv_pages import page_isa, page_tables
from lmcache_connector_vllm.metadata import StepPlan, StepReport, WorkerOffer
from lmcache_connector_vllm.place import Place
from lmcache_connector_vllm.shard import Shard
from lmcache_connector_vllm.tails import Tails
from lmcache_connector_vllm.token_bytes import token_bytes
from lmcache_connector_vllm.unreadable import UnreadableError
from lmcache_core.api.connector import CopyJob
from lmcache_core.log import get_logger
from lmcache_core.memory import GroupMover, HostRegion, PageMover, PageTable

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig

log = get_logger(__name__)

Mover: TypeAlias = PageMover | GroupMover

DRAIN_SECONDS = 0.002
"""How long a step that computes nothing waits for a store. Without the wait
the engine spins through thousands of empty steps a second and takes the
core that the copy needs; a request that arrives meanwhile waits no longer."""


class WorkerSide:
    """Owns the movers and the copy thread of one rank; made by ``start_worker``.

    Args:
        vllm_config: vLLM's configuration.
        kv_cache_config: The KV cache as vLLM laid it out.
        region: The shared region; this side closes it.
        shard: What part of a chunk this rank holds.
        kv_caches: The layers' views of the KV cache, by name.

    Attributes:
        offer: What the scheduler's side needs to know.

    Raises:
        LMCacheError: Pages cannot be moved here.
    """

    def __init__(
        self,
        vllm_config: VllmConfig,
        kv_cache_config: KVCacheConfig,
        region: HostRegion,
        shard: Shard,
        kv_caches: Mapping[str, torch.Tensor],
    ) -> None:
        tables = [
            PageTable(table.layers, before_bytes)
            for table, before_bytes in zip(
                page_tables(kv_cache_config, kv_caches), shard.before_bytes, strict=True
            )
        ]
        device = next(iter(kv_caches.values())).device
        self._device = device
        self._region = region
        self._stores = shard.stores
        self._loader, self._storer = self._movers(tables, device)
        # A CUDA mover has one stream and takes one call at a time.
        self._turn: AbstractContextManager[object] = (
            threading.Lock() if device.type == "cuda" else nullcontext()
        )
        self._tails = Tails(
            region,
            shard.before_bytes,
            token_bytes(vllm_config, kv_cache_config, kv_caches),
        )
        self._thread = CopyThread(self._gather)
        self._done: list[int] = []
        self._failed: list[int] = []
        self._invalid: set[int] = set()
        self.offer = WorkerOffer(
            place=Place.here(),
            extent=region.extent.handle,
            page_bytes=tuple(tuple(layer.page_bytes for layer in table.layers) for table in tables),
            isa=page_isa(vllm_config, kv_cache_config, device),
            stores=shard.stores,
            clears_tails=self._tails.clears,
        )

    def load(self, plan: StepPlan) -> None:
        """Write the plan's loads into their blocks; returns when they are there.

        Called before the forward pass that reads them. A load that fails is
        reported by its blocks, and vLLM computes them.

        Raises:
            UnreadableError: One has failed and the model has several KV cache
                groups, so that its blocks would tell vLLM nothing.
        """
        self._invalid.update(plan.unreadable)
        if not plan.loads:
            return
        if self._device.type == "cuda":
            # The blocks may be those of a request whose last step is still
            # running; the mover's stream knows nothing of that one.
            torch.cuda.current_stream(self._device).synchronize()
        for job in plan.loads:
            try:
                with self._turn:
                    self._loader.scatter(job.copies)
            except Exception as error:
                log.exception("load.failed", job=job.job_id)
                if len(self.offer.page_bytes) > 1:
                    raise UnreadableError(f"the pages of job {job.job_id}") from error
                self._failed.append(job.job_id)
                for copy in job.copies:
                    self._invalid.update(copy.block_ids)
            else:
                self._done.append(job.job_id)

    def store(self, plan: StepPlan) -> None:
        """Hand the plan's stores to the copy thread; called after the forward pass."""
        if not self._stores:
            # Another rank copies the same pages, and the job is done when it
            # says so too.
            self._done.extend(job.job_id for job in plan.stores)
        elif plan.stores:
            ready = self._pages_ready()
            for job in plan.stores:
                self._thread.submit(job, ready)
        elif plan.drain:
            self._thread.wait(DRAIN_SECONDS)

    def report(self) -> StepReport | None:
        """Jobs finished since the last call, or None."""
        stored = self._thread.take()
        if stored is None and not self._done and not self._failed:
            return None
        done, failed = stored or ((), ())
        report = StepReport((*done, *self._done), (*failed, *self._failed))
        self._done.clear()
        self._failed.clear()
        return report

    def take_invalid_blocks(self) -> set[int]:
        """Blocks that were to be loaded and were not, since the last call."""
        if not self._invalid:
            return set()
        invalid, self._invalid = self._invalid, set()
        return invalid

    def close(self) -> None:
        """End the thread, then let go of the memory; idempotent."""
        self._thread.close()
        self._loader.close()
        self._storer.close()
        self._region.close()

    def _gather(self, job: CopyJob) -> int:
        with self._turn:
            moved = self._storer.gather(job.copies)
        self._tails.clear(job.copies)
        return moved

    def _pages_ready(self) -> Callable[[], None]:
        """What the copy thread waits for before it reads this step's pages."""
        if self._device.type != "cuda":
            # On the CPU the forward pass has returned, and with it every write.
            return _no_wait
        # The step has only been launched. The event is behind its kernels and
        # before those of the next step, which may write tokens into the same
        # last block but none that this copy counts as valid.
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        wait: Callable[[], None] = event.synchronize
        return wait

    def _movers(self, tables: Sequence[PageTable], device: torch.device) -> tuple[Mover, Mover]:
        region = self._region
        if device.type == "cuda":
            (table,) = tables
            mover = PageMover(table, region.address, region.nbytes, cuda_device=device.index or 0)
            return mover, mover
        # A load holds up its step and takes every core it can use; a store
        # runs beside a step and must leave the cores to it.
        loaders = [PageMover(table, region.address, region.nbytes) for table in tables]
        storers = [PageMover(table, region.address, region.nbytes, threads=1) for table in tables]
        if len(tables) == 1:
            return loaders[0], storers[0]
        return GroupMover(loaders), GroupMover(storers)


def _no_wait() -> None:
    """Nothing to wait for."""
